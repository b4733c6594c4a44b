"""Lead sheets with the mistakes of one that was inferred from a vocal, so that a band learns to forgive them."""

import numpy as np

from common.music.chord import Chord
from common.music.edits import with_chords_of
from common.music.lead_sheet import BeatChord, LeadSheet

WRONG_CHORDS = 0.15
"""Chance that a chord is its neighbour instead."""
WRONG_DOWNBEATS = 0.1
"""Chance that bars begin on another beat."""
LATE_SECONDS = 0.02
"""Standard deviation of how late all beats are."""
NEIGHBOURS = {"major": (4, 9), "minor": (3, 8)}
"""Semitones up to the roots of the triads of the other mode that share two notes."""


def with_errors(sheet: LeadSheet, rng: np.random.Generator) -> LeadSheet:
    """A sheet with chords exchanged for neighbours, all beats early or late, and bars that may begin on another beat.

    Its key, its tempo and what it says of its confidence stay: errors are not announced.
    """
    late, turn, turned = rng.normal(0, LATE_SECONDS), rng.random(), rng.random()
    if sheet.bars and turn < WRONG_DOWNBEATS:
        sheet = _turned(sheet, 1 + int(turned * (sheet.bars[0].beats - 1)))
    bars = tuple(
        bar.model_copy(update={"chords": tuple(_misheard(one, rng) for one in bar.chords)}) for bar in sheet.bars
    )
    return sheet.model_copy(update={"offset": round(sheet.offset + late, 3), "bars": bars})


def _turned(sheet: LeadSheet, beats: int) -> LeadSheet:
    """The same chords where they were under bars that begin so many beats earlier, with one more at the end."""
    earlier = round(sheet.offset - beats * sheet.bars[0].beat_seconds, 3)
    moved = sheet.model_copy(update={"offset": earlier, "bars": (*sheet.bars, sheet.bars[-1])})
    return with_chords_of(moved, sheet)


def _misheard(one: BeatChord, rng: np.random.Generator) -> BeatChord:
    wrong, which = rng.random() < WRONG_CHORDS, int(rng.integers(2))
    if one.chord is None or not wrong:
        return one
    minor = 3 in {(note - one.chord.root) % 12 for note in one.chord.notes}
    root = one.chord.root + NEIGHBOURS["minor" if minor else "major"][which]
    return one.model_copy(update={"chord": Chord.on(root % 12, "" if minor else "m")})

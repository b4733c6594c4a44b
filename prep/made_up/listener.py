"""The ideal listener of the made-up world: what can be read at most of a vocal's notes by one who knows its bars.

It knows the rules of the world (24 keys, the progressions of verse and chorus, which of them comes first) and how often
a tune has which note over which chord, but no tune. It weighs all songs that there can be, and names the likeliest key
and, bar by bar, the likeliest chord.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from common.music.chord import MODES, Chord, Key, Mode
from common.music.lead_sheet import BeatChord, LeadSheet, SheetBar
from prep.made_up.melody import EIGHTHS_PER_BAR, compose
from prep.made_up.world import BEATS_PER_BAR, CHORUSES, CYCLE, SCALES, SECTION_BARS, VERSES, World, draw_world

KNOWN_SEEDS = range(10_000, 10_600)
"""Of the songs by which it knows how often a tune has which note."""
LONG_EIGHTHS = 3
DEGREES = 7
WRONG = 1e-6
"""Probability of a note that is not of the scale."""


@dataclass(frozen=True)
class HeardNote:
    """A note as somebody has it who knows the bars."""

    bar: int
    """From 0, the first that a section begins with."""
    eighth: int
    """Of the bar."""
    is_long: bool
    pitch_class: int


@dataclass(frozen=True)
class Possible:
    """A song that there can be, as far as its chords go."""

    key: Key
    first: int
    """Which section of CYCLE begins it."""
    verse: int
    chorus: int

    def degree(self, bar: int) -> int:
        """Root of a bar's chord as a degree of the scale."""
        section, place = divmod(bar, SECTION_BARS)
        is_chorus = CYCLE[(self.first + section) % len(CYCLE)] == "chorus"
        return (CHORUSES[self.key.mode][self.chorus] if is_chorus else VERSES[self.key.mode][self.verse])[place]

    def chord(self, degree: int) -> Chord:
        """The triad on a degree of the scale."""
        scale = SCALES[self.key.mode]
        root, third = scale[degree], scale[(degree + 2) % DEGREES]
        return Chord.on((self.key.tonic + root) % 12, "m" if (third - root) % 12 == 3 else "")


def listen(world: World) -> LeadSheet:
    """A song's own bars, with key and chords as its sung notes tell them at most; the pickup has the key's tonic."""
    notes, songs = list(heard(world)), list(possible_songs())
    fits = np.array([_log_likelihood(song, notes) for song in songs])
    weights = np.exp(fits - fits.max())
    signatures = np.bincount([song.key.signature for song in songs], weights, minlength=12)
    of_signature = [song.key.signature == signatures.argmax() for song in songs]
    key = songs[int(np.argmax(np.where(of_signature, weights, 0)))].key
    chords = [_likeliest(songs, weights, bar) for bar in range(len(world.bars) - 1)]
    tonic = Chord.on(key.tonic, "m" if key.mode == "minor" else "")
    bars = tuple(
        SheetBar(bpm=world.tempo_bpm, beats=BEATS_PER_BAR, chords=(BeatChord(beat=0, chord=chord),))
        for chord in (tonic, *chords)
    )
    return LeadSheet(offset=world.bars[0].start_seconds, key=key, bars=bars)


def possible_songs() -> Iterator[Possible]:
    """All songs that there can be, each as likely as the others."""
    for tonic, mode, first in product(range(12), MODES, (0, 1)):
        for verse, chorus in product(range(len(VERSES[mode])), range(len(CHORUSES[mode]))):
            yield Possible(Key(tonic=tonic, mode=mode), first, verse, chorus)


def heard(world: World) -> Iterator[HeardNote]:
    """The sung notes of a song by their place in its bars."""
    eighth_seconds, start = world.beat_seconds / 2, world.bars[1].start_seconds
    for note in (note for phrase in compose(world) for note in phrase):
        bar, eighth = divmod(round((note.start_seconds - start) / eighth_seconds), EIGHTHS_PER_BAR)
        is_long = round((note.end_seconds - note.start_seconds) / eighth_seconds) >= LONG_EIGHTHS
        yield HeardNote(bar, eighth, is_long, note.midi % 12)


def _likeliest(songs: Sequence[Possible], weights: np.ndarray, bar: int) -> Chord:
    chords: dict[Chord, float] = {}
    for song, weight in zip(songs, weights, strict=True):
        chord = song.chord(song.degree(bar))
        chords[chord] = chords.get(chord, 0.0) + float(weight)
    return max(chords, key=lambda chord: chords[chord])


def _log_likelihood(song: Possible, notes: Sequence[HeardNote]) -> float:
    table, degrees = _note_table(), _degrees(song.key.mode)
    total = 0.0
    for note in notes:
        degree = degrees[(note.pitch_class - song.key.tonic) % 12]
        known = degree is not None
        total += np.log(table[note.eighth, int(note.is_long), song.degree(note.bar), degree] if known else WRONG)
    return total


def _degrees(mode: Mode) -> list[int | None]:
    """The degree of the scale that each pitch class above the tonic is."""
    return [SCALES[mode].index(step) if step in SCALES[mode] else None for step in range(12)]


@cache
def _note_table() -> np.ndarray:
    """How probable each degree of a note is: [eighth of the bar, short or long, degree of the chord, degree]."""
    counts = np.full((EIGHTHS_PER_BAR, 2, DEGREES, DEGREES), 0.1)
    for seed in KNOWN_SEEDS:
        world = draw_world(seed, 10.0)
        degrees = _degrees(world.mode)
        for note in heard(world):
            degree = degrees[(note.pitch_class - world.tonic) % 12]
            counts[note.eighth, int(note.is_long), world.bars[note.bar + 1].degree, degree] += 1
    return counts / counts.sum(axis=-1, keepdims=True)

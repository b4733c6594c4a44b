"""A lead sheet in a musician's hand: at another tempo, with other chords, as long as the sound."""

import math
from itertools import cycle

from common.errors import UserError
from common.music.chord import Chord
from common.music.lead_sheet import FASTEST_BPM, SLOWEST_BPM, BeatChord, LeadSheet, SheetBar
from common.music.notation import read_lead_sheet

UNKNOWN = (None, 0.0)
"""No chord, and not sure of it."""


def at_tempo(sheet: LeadSheet, bpm: float, seconds: float) -> LeadSheet:
    """The same chords on even beats of another tempo, from the first bar to the end of so many seconds of sound.

    Chords stay where they are in time: each beat takes the one that sounds at its middle. Bars are as long in beats as
    the first of the sheet, 4 beats without any. Raises UserError for a tempo that no sheet can have.
    """
    if not SLOWEST_BPM <= bpm <= FASTEST_BPM:
        raise UserError(f"a tempo of {bpm:g} bpm is outside {SLOWEST_BPM:g} to {FASTEST_BPM:g}.")
    return _on_even_beats(sheet, bpm, sheet.offset, seconds)


def at_downbeat(sheet: LeadSheet, downbeat: float, seconds: float) -> LeadSheet:
    """The same chords on even beats of its tempo of which a bar begins at `downbeat`, from 0 to the end of the sound.

    Chords stay where they are in time, as in at_tempo; the first bar begins at 0 or in the bar before it.
    Raises UserError for a sheet without bars, and for a downbeat outside the sound.
    """
    if sheet.bpm is None:
        raise UserError("no tempo is known for the beats before and after it. Give one first.")
    if not 0 <= downbeat <= seconds:
        raise UserError(f"a downbeat at {downbeat:g} s is outside 0 to {seconds:.2f} s.")
    bar_seconds = sheet.bars[0].beats * 60.0 / sheet.bpm
    first = round(downbeat - math.ceil(downbeat / bar_seconds) * bar_seconds, 3)
    return _on_even_beats(sheet, sheet.bpm, first, seconds)


def _on_even_beats(sheet: LeadSheet, bpm: float, first: float, seconds: float) -> LeadSheet:
    """A sheet's chords where they are in time, on beats from `first` to the end of so many seconds."""
    beats = sheet.bars[0].beats if sheet.bars else 4
    beat_seconds = 60.0 / bpm
    count = max(math.ceil((seconds - first) / (beats * beat_seconds)), 1)
    played = _played(sheet, [first + (place + 0.5) * beat_seconds for place in range(count * beats)])
    bars = [
        SheetBar(bpm=bpm, beats=beats, chords=_changes(played[start : start + beats]))
        for start in range(0, len(played), beats)
    ]
    return sheet.model_copy(update={"offset": first, "bars": tuple(bars)})


def with_bar(sheet: LeadSheet, number: int, chords: str) -> LeadSheet:
    """The sheet with other chords, such as "F . . G", in one of its bars, from 0.

    Raises UserError for a bar that it has not, and for chords that cannot be read or change tempo or time.
    """
    if not 0 <= number < len(sheet.bars):
        raise UserError(f"bar {number + 1}: there are {len(sheet.bars)} bars.")
    bar = sheet.bars[number]
    found = read_lead_sheet(f"bpm: {bar.bpm}\ntime: {bar.beats}/4\n| {chords} |", f"bar {number + 1}").bars
    if [(one.bpm, one.beats) for one in found] != [(bar.bpm, bar.beats)]:
        raise UserError(f'bar {number + 1}: {chords!r} is not one bar of {bar.beats} beats. Write "Am" or "F . . G".')
    bars = list(sheet.bars)
    bars[number] = bar.model_copy(update={"chords": found[0].chords})
    return sheet.model_copy(update={"bars": tuple(bars)})


def with_chords(sheet: LeadSheet, chords: str, seconds: float) -> LeadSheet:
    """The beats of a sheet with bars such as "| C | Am | F G |", over and over until so many seconds of sound end.

    The last bar's tempo goes on where the sheet ends before. Raises UserError for a sheet without bars, one whose bars
    differ in beats, and chords that cannot be read.
    """
    if not sheet.bars:
        raise UserError(f"chords {chords!r}: no tempo is known for them. Give one too.")
    beats = {bar.beats for bar in sheet.bars}
    if len(beats) > 1:
        raise UserError(f"chords {chords!r}: bars of {sorted(beats)} beats take no chords in turn. Write a lead sheet.")
    pattern = read_lead_sheet(f"time: {beats.pop()}/4\nbpm: 100\n{chords}", f"chords {chords!r}").bars
    if not pattern:
        raise UserError(f'chords {chords!r} are no bars. Write "| C | Am | F G | C |".')
    if any((bar.bpm, bar.beats) != (100.0, sheet.bars[0].beats) for bar in pattern):
        raise UserError(f"chords {chords!r} change tempo or time. Write a lead sheet for that.")
    last = sheet.bars[-1]
    missing = max(math.ceil((seconds - float(sheet.starts[-1])) / last.seconds), 0)
    bars = [
        bar.model_copy(update={"chords": one.chords})
        for bar, one in zip((*sheet.bars, *[last] * missing), cycle(pattern), strict=False)
    ]
    return sheet.model_copy(update={"bars": tuple(bars)})


def with_chords_of(sheet: LeadSheet, chords: LeadSheet) -> LeadSheet:
    """The beats of one sheet with the chords that another has at the middle of each."""
    bars = []
    for start, bar in zip(sheet.starts, sheet.bars, strict=False):
        middles = [float(start + (beat + 0.5) * bar.beat_seconds) for beat in range(bar.beats)]
        bars.append(bar.model_copy(update={"chords": _changes(_played(chords, middles))}))
    return sheet.model_copy(update={"bars": tuple(bars)})


def _played(sheet: LeadSheet, times: list[float]) -> list[tuple[Chord | None, float]]:
    """Chord and confidence at each of the times, which are in order."""
    segments, found = list(sheet.chord_segments()), []
    at = 0
    for time in times:
        while at < len(segments) and segments[at].end <= time:
            at += 1
        inside = at < len(segments) and segments[at].start <= time
        found.append((segments[at].chord, segments[at].confidence) if inside else UNKNOWN)
    return found


def _changes(played: list[tuple[Chord | None, float]]) -> tuple[BeatChord, ...]:
    """The chords of a bar's beats, each named where it begins."""
    return tuple(
        BeatChord(beat=beat, chord=chord, confidence=confidence)
        for beat, (chord, confidence) in enumerate(played)
        if beat == 0 or played[beat - 1] != (chord, confidence)
    )

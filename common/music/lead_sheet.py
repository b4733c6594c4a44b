"""A lead sheet: tempo, beats, downbeats, key and chords of a song, each with how sure it is.

A song is a row of bars; the beats of a bar are evenly spaced and chords begin on beats, so that the sheet can be
written as musicians write it (common/music/notation.py) and lose nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from common.config import Config
from common.music.chord import Chord, Confidence, Key

SLOWEST_BPM, FASTEST_BPM = 20.0, 400.0
MOST_BEATS = 16
STEADY_SECONDS = 0.035
"""A song whose downbeats are all so close to an even grid has one tempo."""
LONGEST_SPAN_SECONDS = 16.0
"""A chord without beats that is longer takes several bars."""
JOIN_SECONDS = 0.005
"""Bars of two parts that lie so close follow each other: a sheet holds milliseconds."""


class BeatChord(Config):
    """A chord from one beat of a bar on."""

    beat: Annotated[int, Field(ge=0)]
    chord: Chord | None
    """None where no chord is played."""
    confidence: Confidence = 1.0


class SheetBar(Config):
    """One bar."""

    bpm: Annotated[float, Field(ge=SLOWEST_BPM, le=FASTEST_BPM), AfterValidator(lambda value: round(value, 3))]
    """Beats a minute."""
    beats: Annotated[int, Field(ge=1, le=MOST_BEATS)] = 4
    confidence: Confidence = 1.0
    """Of its beats and of where it begins."""
    chords: tuple[BeatChord, ...]
    """In order; the first begins on beat 0."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        starts = [one.beat for one in self.chords]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= self.beats:
            raise ValueError(f"chords of a bar of {self.beats} beats begin on beats {starts}; the first is 0")
        return self

    @property
    def beat_seconds(self) -> float:
        return 60.0 / self.bpm

    @property
    def seconds(self) -> float:
        return self.beats * self.beat_seconds


@dataclass(frozen=True)
class ChordSegment:
    """A chord with where it sounds, in seconds."""

    start: float
    end: float
    chord: Chord | None
    confidence: float


class LeadSheet(Config):
    """Tempo, beats, downbeats, key and chords of a song or of a part of one."""

    offset: Annotated[float, Field(ge=-3600, le=36000), AfterValidator(lambda value: round(value, 3))] = 0.0
    """Seconds from the start of the sound to the first bar; below 0 where the sound begins inside that bar."""
    key: Key | None = None
    bars: tuple[SheetBar, ...] = ()

    @property
    def starts(self) -> np.ndarray:
        """Seconds at which each bar begins, and the end of the last: float64 [bars + 1]."""
        return self.offset + np.concatenate([[0.0], np.cumsum([bar.seconds for bar in self.bars])])

    @property
    def bpm(self) -> float | None:
        """The median tempo of its bars; None without any."""
        return float(np.median([bar.bpm for bar in self.bars])) if self.bars else None

    def beat_times(self) -> np.ndarray:
        """Seconds of every beat, those before 0 too: float64."""
        pairs = zip(self.starts, self.bars, strict=False)
        return np.array([start + beat * bar.beat_seconds for start, bar in pairs for beat in range(bar.beats)])

    def downbeat_times(self) -> np.ndarray:
        """Seconds at which each bar begins: float64 [bars]."""
        return self.starts[:-1]

    def chord_segments(self) -> Iterator[ChordSegment]:
        """Chords as they follow each other; the same chord in two bars comes twice."""
        for start, bar in zip(self.starts, self.bars, strict=False):
            ends = [*(one.beat for one in bar.chords[1:]), bar.beats]
            for one, end in zip(bar.chords, ends, strict=True):
                first, last = start + one.beat * bar.beat_seconds, start + end * bar.beat_seconds
                yield ChordSegment(float(first), float(last), one.chord, one.confidence)

    def cut(self, start: float, end: float) -> Self:
        """The sheet of the sound between `start` and `end`, in seconds: the bars that reach into it."""
        starts = self.starts
        inside = [index for index in range(len(self.bars)) if starts[index + 1] > start and starts[index] < end]
        if not inside:
            return self.model_copy(update={"offset": 0.0, "bars": ()})
        first, last = inside[0], inside[-1]
        return self.model_copy(
            update={"offset": round(float(starts[first] - start), 3), "bars": self.bars[first : last + 1]}
        )

    def shifted(self, semitones: int) -> Self:
        """The sheet of the same song so much higher."""
        bars = [
            bar.model_copy(
                update={
                    "chords": tuple(
                        one.model_copy(update={"chord": one.chord and one.chord.shifted(semitones)})
                        for one in bar.chords
                    )
                }
            )
            for bar in self.bars
        ]
        key = None if self.key is None else self.key.shifted(semitones)
        return self.model_copy(update={"key": key, "bars": tuple(bars)})


@dataclass(frozen=True)
class TrackedBeat:
    """A beat as a tracker found it, and the chord from there on."""

    seconds: float
    place: int
    """Beat of the bar, 0 for a downbeat."""
    chord: Chord | None
    confidence: float = 1.0
    """Of the beat."""
    chord_confidence: float = 1.0


def lead_sheet_of(beats: Sequence[TrackedBeat], beats_per_bar: int, key: Key | None = None) -> LeadSheet:
    """The lead sheet of tracked beats, in order of time; the bars at both ends are made whole at their own tempo.

    Downbeats that lie within STEADY_SECONDS of an even grid are put on it. Beats of a bar are spread evenly.
    """
    if len(beats) < 2:
        return LeadSheet(key=key)
    beat_seconds = float(np.median(np.diff([beat.seconds for beat in beats])))
    groups = _groups(beats, beats_per_bar)
    starts = _bar_starts(groups, beat_seconds, beats_per_bar)
    bars = tuple(
        _bar(group, 60.0 * beats_per_bar / float(end - start), beats_per_bar, before)
        for group, start, end, before in zip(groups, starts, starts[1:], [None, *groups], strict=False)
    )
    return LeadSheet(offset=float(starts[0]), key=key, bars=bars)


def lead_sheet_of_spans(spans: Sequence[tuple[float, float, Chord | None]]) -> LeadSheet:
    """The lead sheet of chords with start and end in seconds, in order, whose beats nobody knows: confidence 0.

    Each chord is one bar or more. A chord shorter than the fastest beat belongs to the one before it.
    """
    bars: list[SheetBar] = []
    first = at = spans[0][0] if spans else 0.0
    for start, end, chord in spans:
        for until, name, confidence in ((start, None, 0.0), (end, chord, 1.0)):
            while until - at >= 60.0 / FASTEST_BPM:
                seconds = min(until - at, LONGEST_SPAN_SECONDS)
                beats = min(max(round(seconds), 1), MOST_BEATS)
                chords = (BeatChord(beat=0, chord=name, confidence=confidence),)
                bpm = min(60.0 * beats / seconds, FASTEST_BPM)
                bars.append(SheetBar(bpm=bpm, beats=beats, confidence=0.0, chords=chords))
                at += bars[-1].seconds
    return LeadSheet(offset=first, bars=tuple(bars))


def join_lead_sheets(parts: Sequence[tuple[float, LeadSheet]]) -> LeadSheet:
    """The lead sheet of a whole from those of its parts, each with the second at which the part begins, in order.

    A bar that reaches from a part into the next is in both and counts once. Where the bars of a part do not begin where
    those before it end, the bar before is played faster or slower, so that all others are where they were.
    """
    joined: list[SheetBar] = []
    first = end = 0.0
    for begin, sheet in parts:
        for start, bar in zip(begin + sheet.starts, sheet.bars, strict=False):
            if not joined:
                first = start
            elif start < end - bar.beat_seconds / 2:
                continue
            elif abs(start - end) > JOIN_SECONDS:
                joined[-1] = _lasting(joined[-1], joined[-1].seconds + float(start) - end)
            joined.append(bar)
            end = first + sum(one.seconds for one in joined)
    key = next((sheet.key for _, sheet in parts if sheet.key is not None), None)
    return LeadSheet(offset=float(first), key=key, bars=tuple(joined))


def _lasting(bar: SheetBar, seconds: float) -> SheetBar:
    """A bar at the tempo at which it lasts so long."""
    bpm = float(np.clip(60.0 * bar.beats / seconds, SLOWEST_BPM, FASTEST_BPM))
    return bar.model_copy(update={"bpm": round(bpm, 3)})


def _groups(beats: Sequence[TrackedBeat], beats_per_bar: int) -> list[list[TrackedBeat]]:
    """The beats of each bar."""
    groups: list[list[TrackedBeat]] = []
    for beat in beats:
        if not groups or beat.place == 0 or len(groups[-1]) == beats_per_bar:
            groups.append([])
        groups[-1].append(beat)
    return groups


def _bar_starts(groups: Sequence[Sequence[TrackedBeat]], beat_seconds: float, beats_per_bar: int) -> np.ndarray:
    """Seconds at which each bar begins and the last ends: [bars + 1]."""
    starts = [group[0].seconds - group[0].place * beat_seconds for group in groups]
    starts = np.array([*starts, starts[-1] + beats_per_bar * beat_seconds])
    number = np.arange(len(starts))
    if len(groups) > 2:  # the ends are guesses
        slope, start = np.polyfit(number[1:-1], starts[1:-1], 1)
        if np.abs(start + slope * number - starts)[1:-1].max() <= STEADY_SECONDS:
            return start + slope * number
    return starts


def _bar(
    group: Sequence[TrackedBeat], bpm: float, beats_per_bar: int, before: Sequence[TrackedBeat] | None
) -> SheetBar:
    chords: list[BeatChord] = []
    if group[0].place != 0 and before is not None:
        chords.append(BeatChord(beat=0, chord=before[-1].chord, confidence=before[-1].chord_confidence))
    for beat in group:
        place = 0 if not chords else beat.place
        if not chords or beat.chord != chords[-1].chord:
            chords.append(BeatChord(beat=place, chord=beat.chord, confidence=beat.chord_confidence))
    confidence = float(np.mean([beat.confidence for beat in group]))
    return SheetBar(
        bpm=float(np.clip(bpm, SLOWEST_BPM, FASTEST_BPM)),
        beats=beats_per_bar,
        confidence=confidence,
        chords=tuple(chords),
    )

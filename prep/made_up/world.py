"""A made-up song before a note of it sounds: key, mode, tempo, band, form and chords, all drawn from one seed.

Time is in seconds from the first sample. The clip opens somewhere inside a pickup bar (so bar -1 starts before zero and
no beat can be guessed from the clock), then four-bar sections follow each other until the clip is full.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.music.chord import TONICS, Mode

Energy = Literal["calm", "energetic"]
Singer = Literal["female", "male"]
SectionName = Literal["intro", "verse", "chorus", "inst"]
Instrument = Literal["piano", "organ", "strings", "pluck", "synth"]
Player = Literal[Instrument, "bass", "drums"]

SCALES: dict[Mode, tuple[int, ...]] = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones above the tonic, degree by degree; minor is natural minor."""
BEATS_PER_BAR = 4
SECTION_BARS = 4
TEMPI_BPM: dict[Energy, tuple[int, ...]] = {"calm": tuple(range(76, 113, 4)), "energetic": tuple(range(100, 149, 4))}
"""Steps of 4, so that a small text encoder meets each of the 19 tempi often."""
INSTRUMENTS: tuple[Instrument, ...] = ("piano", "organ", "strings", "pluck", "synth")
PULSING: tuple[Instrument, ...] = ("piano", "pluck", "synth")
"""Instruments that strike every beat; a band without drums has at least one."""
DRUMS_CHANCE: dict[Energy, float] = {"calm": 0.65, "energetic": 0.9}
BASS_CHANCE = 0.85
CYCLE: tuple[SectionName, ...] = ("verse", "chorus", "verse", "chorus", "inst")
CHORUS_FIRST_CHANCE = 0.4
PICKUP_SHARE = 0.15
"""Longest pickup as a share of the clip (and never a whole bar), so that short clips are sung too."""

VERSES: dict[Mode, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 2, 3, 4), (0, 3, 5, 4)),
    "minor": ((0, 5, 2, 6), (0, 5, 3, 4), (0, 4, 5, 3), (0, 2, 5, 6)),
}
"""Chord roots as scale degrees (0 is the tonic), one chord a bar; verses stay open, choruses come home."""
CHORUSES: dict[Mode, tuple[tuple[int, ...], ...]] = {
    "major": ((3, 4, 0, 0), (0, 3, 4, 0), (3, 0, 4, 0), (0, 4, 0, 3)),
    "minor": ((5, 6, 0, 0), (5, 4, 0, 0), (3, 0, 4, 0), (0, 5, 4, 0)),
}


@dataclass(frozen=True)
class Bar:
    """Four beats over one chord."""

    start_seconds: float
    section: SectionName
    place: int
    """Number of the bar within its section, from 0."""
    degree: int
    """Root of its chord as a scale degree, 0 being the tonic."""


@dataclass(frozen=True)
class World:
    """Everything that is decided about a song before melody and sound."""

    seed: int
    seconds: float
    tonic: int
    """Pitch class, 0 is C."""
    mode: Mode
    tempo_bpm: int
    energy: Energy
    singer: Singer
    instruments: tuple[Instrument, ...]
    bass: bool
    drums: bool
    progressions: dict[SectionName, tuple[int, ...]]
    """Chord roots of a verse and of a chorus, as scale degrees."""
    bars: tuple[Bar, ...]
    """Every bar that sounds, the pickup first."""

    @property
    def players(self) -> tuple[Player, ...]:
        """Everyone in the band."""
        rhythm: list[Player] = []
        if self.bass:
            rhythm.append("bass")
        if self.drums:
            rhythm.append("drums")
        return (*self.instruments, *rhythm)

    @property
    def beat_seconds(self) -> float:
        return 60.0 / self.tempo_bpm

    @property
    def bar_seconds(self) -> float:
        return BEATS_PER_BAR * self.beat_seconds

    def midi(self, step: int) -> int:
        """Pitch of a step of the scale; step 0 is the lowest tonic of MIDI, 7 steps are an octave."""
        octave, degree = divmod(step, len(SCALES[self.mode]))
        return self.tonic + 12 * octave + SCALES[self.mode][degree]

    def triad(self, degree: int) -> tuple[int, int, int]:
        """Pitch classes of root, third and fifth of the chord on `degree`."""
        root, third, fifth = (self.midi(degree + rise) % 12 for rise in (0, 2, 4))
        return root, third, fifth

    def chord_label(self, degree: int) -> str:
        """The chord on `degree` as in "F#:min"."""
        root, third, _ = self.triad(degree)
        return f"{TONICS[root]}:{'maj' if (third - root) % 12 == 4 else 'min'}"


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Randomness of song `seed` for one purpose, so that a change of the drums leaves the melody as it was."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def draw_world(seed: int, seconds: float) -> World:
    """The song that belongs to `seed`, long enough for `seconds`."""
    rng = stream(seed, "world")
    mode: Mode = "major" if rng.random() < 0.5 else "minor"
    energy: Energy = "calm" if rng.random() < 0.5 else "energetic"
    tempo_bpm = int(rng.choice(TEMPI_BPM[energy]))
    drums = bool(rng.random() < DRUMS_CHANCE[energy])
    progressions: dict[SectionName, tuple[int, ...]] = {
        "intro": (0,),
        "verse": VERSES[mode][rng.integers(len(VERSES[mode]))],
        "chorus": CHORUSES[mode][rng.integers(len(CHORUSES[mode]))],
    }
    progressions["inst"] = progressions["verse"]
    bar_seconds = BEATS_PER_BAR * 60.0 / tempo_bpm
    pickup_seconds = rng.uniform(0.0, min(bar_seconds, PICKUP_SHARE * seconds))
    first = 1 if rng.random() < CHORUS_FIRST_CHANCE else 0
    return World(
        seed=seed,
        seconds=seconds,
        tonic=int(rng.integers(len(TONICS))),
        mode=mode,
        tempo_bpm=tempo_bpm,
        energy=energy,
        singer="female" if rng.random() < 0.5 else "male",
        instruments=_draw_instruments(rng, drums=drums),
        bass=bool(rng.random() < BASS_CHANCE),
        drums=drums,
        progressions=progressions,
        bars=tuple(_bars(progressions, first, pickup_seconds, bar_seconds, seconds)),
    )


def _draw_instruments(rng: np.random.Generator, *, drums: bool) -> tuple[Instrument, ...]:
    """One or two harmony instruments, in the order of INSTRUMENTS."""
    leaders = INSTRUMENTS if drums else PULSING
    chosen = {leaders[rng.integers(len(leaders))]}
    if rng.random() < 0.5:
        chosen.add(INSTRUMENTS[rng.integers(len(INSTRUMENTS))])
    return tuple(name for name in INSTRUMENTS if name in chosen)


def _bars(
    progressions: dict[SectionName, tuple[int, ...]],
    first: int,
    pickup_seconds: float,
    bar_seconds: float,
    seconds: float,
) -> Iterator[Bar]:
    yield Bar(pickup_seconds - bar_seconds, "intro", 0, progressions["intro"][0])
    for number in range(math.ceil((seconds - pickup_seconds) / bar_seconds)):
        section, place = divmod(number, SECTION_BARS)
        name = CYCLE[(first + section) % len(CYCLE)]
        yield Bar(pickup_seconds + number * bar_seconds, name, place, progressions[name][place])

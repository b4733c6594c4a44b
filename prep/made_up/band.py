"""The accompaniment: what the harmony instruments and the bass play under the melody, and how loud each one is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prep.made_up.drums import play_drums
from prep.made_up.signal import SAMPLE_RATE_HZ, add_at
from prep.made_up.timbres import TIMBRES, Timbre, play
from prep.made_up.world import Bar, Energy, Instrument, World, stream

LOWEST_CHORD_MIDI: dict[Instrument, int] = {"piano": 55, "organ": 57, "strings": 60, "pluck": 60, "synth": 55}
"""Chords are closed within the octave above this note, which leads their voices smoothly."""
LOWEST_BASS_MIDI = 33
LEVEL_DB = {"harmony": -20.0, "second": -23.0, "bass": -20.0, "drums": -19.0, "soft drums": -23.0}
"""RMS of each part while it plays, relative to full scale before mastering."""
LATEST_SECONDS = 0.006
DRIVE = 1.5
"""How hard the band leans on the soft limiter that rounds its peaks."""


@dataclass(frozen=True)
class Strike:
    """One note of a part."""

    midi: int
    start_seconds: float
    seconds: float
    accent: float


@dataclass(frozen=True)
class Figure:
    """One stroke of a pattern that fills a bar; beats from the start of the bar."""

    beat: float
    beats: float
    voices: tuple[int, ...]
    """Which tones of the chord: 0 is the lowest, 3 the lowest an octave up."""
    accent: float = 1.0


ALL_VOICES = (0, 1, 2)
HELD = (Figure(0, 4, ALL_VOICES),)
PULSE = tuple(Figure(beat, 0.9, ALL_VOICES, 1.0 if beat == 0 else 0.75) for beat in range(4))
BROKEN = (
    Figure(0, 2, ALL_VOICES),
    Figure(1, 0.9, (3,), 0.7),
    Figure(2, 2, ALL_VOICES, 0.85),
    Figure(3, 0.9, (3,), 0.7),
)
ROLLED = tuple(Figure(beat, 1.2, (voice,), 0.9) for beat, voice in enumerate((0, 1, 2, 3)))
RIPPLE = tuple(
    Figure(eighth / 2, 0.8, (voice,), 0.7 if eighth % 2 else 1.0)
    for eighth, voice in enumerate((0, 1, 2, 3, 2, 1, 2, 1))
)
STABS = tuple(Figure(eighth / 2, 0.35, ALL_VOICES, 0.6 if eighth % 2 else 1.0) for eighth in range(8))
PATTERNS: dict[Instrument, dict[Energy, tuple[Figure, ...]]] = {
    "piano": {"calm": BROKEN, "energetic": PULSE},
    "organ": {"calm": HELD, "energetic": HELD},
    "strings": {"calm": HELD, "energetic": HELD},
    "pluck": {"calm": ROLLED, "energetic": RIPPLE},
    "synth": {"calm": PULSE, "energetic": STABS},
}
BASS_LINES: dict[Energy, tuple[tuple[Figure, ...], ...]] = {
    "calm": (
        (Figure(0, 1.9, (0,)), Figure(2, 1.9, (0,), 0.9)),
        (Figure(0, 1.9, (0,)), Figure(2, 0.95, (0,), 0.9), Figure(3, 0.95, (0,), 0.8)),
    ),
    "energetic": (
        tuple(Figure(beat, 0.9, (0,)) for beat in range(4)),
        tuple(Figure(eighth / 2, 0.45, (0,), 0.75 if eighth % 2 else 1.0) for eighth in range(8)),
    ),
}


def play_band(world: World, samples: int) -> np.ndarray:
    """The accompaniment, float32 [2, samples], each part at its level, peaks rounded."""
    rng = stream(world.seed, "band")
    sound = np.zeros((2, samples), dtype=np.float32)
    for number, name in enumerate(world.instruments):
        strikes = _strikes(world, PATTERNS[name][world.energy], LOWEST_CHORD_MIDI[name], rng)
        sound += _level(_part(TIMBRES[name], strikes, samples), "second" if number else "harmony")
    if world.bass:
        line = BASS_LINES[world.energy][rng.integers(len(BASS_LINES[world.energy]))]
        sound += _level(_part(TIMBRES["bass"], _bass(world, line, rng), samples), "bass")
    sound += _level(play_drums(world, samples), "drums" if world.energy == "energetic" else "soft drums")
    return np.tanh(sound * DRIVE) / DRIVE


def _level(part: np.ndarray, name: str) -> np.ndarray:
    """`part` [2, N] with the RMS of LEVEL_DB."""
    rms = np.sqrt(np.mean(part**2))
    return part * np.float32(10.0 ** (LEVEL_DB[name] / 20) / rms) if rms > 0 else part


def _strikes(world: World, pattern: Sequence[Figure], lowest_midi: int, rng: np.random.Generator) -> Iterator[Strike]:
    """The pattern over the chord of every bar."""
    for bar in world.bars:
        chord = sorted(_above(lowest_midi, pitch_class) for pitch_class in world.triad(bar.degree))
        yield from _bar_strikes(world, bar, pattern, (*chord, chord[0] + 12), rng)


def _bass(world: World, line: Sequence[Figure], rng: np.random.Generator) -> Iterator[Strike]:
    """The root of every chord, low."""
    for bar in world.bars:
        root, _, _ = world.triad(bar.degree)
        yield from _bar_strikes(world, bar, line, (_above(LOWEST_BASS_MIDI, root),), rng)


def _bar_strikes(
    world: World, bar: Bar, pattern: Sequence[Figure], tones: tuple[int, ...], rng: np.random.Generator
) -> Iterator[Strike]:
    for figure in pattern:
        start = bar.start_seconds + figure.beat * world.beat_seconds + rng.uniform(0.0, LATEST_SECONDS)
        for voice in figure.voices:
            yield Strike(tones[voice], start, figure.beats * world.beat_seconds, figure.accent)


def _above(lowest_midi: int, pitch_class: int) -> int:
    """The first note of a pitch class at or above `lowest_midi`."""
    return lowest_midi + (pitch_class - lowest_midi) % 12


def _part(timbre: Timbre, strikes: Iterator[Strike], samples: int) -> np.ndarray:
    """All notes of one instrument, float32 [2, samples]; a note that comes again is made once."""
    sound = np.zeros((2, samples), dtype=np.float32)
    made: dict[tuple[int, float], np.ndarray] = {}
    for strike in strikes:
        note = (strike.midi, strike.seconds)
        if note not in made:
            made[note] = play(timbre, *note)
        add_at(sound, made[note] * strike.accent, round(strike.start_seconds * SAMPLE_RATE_HZ))
    return sound

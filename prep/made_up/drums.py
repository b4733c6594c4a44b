"""The drum kit: its sounds, drawn anew for each song, and what is struck in each bar."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfilt

from prep.made_up.signal import SAMPLE_RATE_HZ, add_at, panned
from prep.made_up.world import SECTION_BARS, Bar, Energy, World, stream


@dataclass(frozen=True)
class Groove:
    """What is struck in a plain bar, in beats from its start."""

    kick: tuple[float, ...]
    snare: tuple[float, ...]
    hat: tuple[float, ...]


GROOVES: dict[Energy, tuple[Groove, ...]] = {
    "calm": (
        Groove(kick=(0, 2), snare=(1, 3), hat=(0, 1, 2, 3)),
        Groove(kick=(0, 2), snare=(1, 3), hat=(0, 1, 2, 3, 3.5)),
        Groove(kick=(0, 2, 2.5), snare=(1, 3), hat=(0, 1, 2, 3)),
    ),
    "energetic": (
        Groove(kick=(0, 1, 2, 3), snare=(1, 3), hat=(0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)),
        Groove(kick=(0, 2, 2.5), snare=(1, 3), hat=(0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)),
        Groove(kick=(0, 1.5, 2), snare=(1, 3), hat=(0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)),
    ),
}
FILLS: tuple[tuple[float, ...], ...] = ((3, 3.25, 3.5, 3.75), (2.5, 3, 3.5, 3.75), (3, 3.5, 3.75))
"""Strokes on the toms that end a section."""
LOUDNESS = {"kick": 1.0, "snare": 0.75, "hat": 0.28, "tom": 0.7, "crash": 0.4}
PAN = {"kick": 0.0, "snare": 0.05, "hat": 0.35, "tom": -0.3, "crash": -0.4}
"""From left (-1) to right (1)."""
OFFBEAT = 0.6
"""Loudness of a stroke between the beats."""
LATEST_SECONDS = 0.004


@dataclass(frozen=True)
class Stroke:
    """One hit."""

    drum: str
    start_seconds: float
    loudness: float


def play_drums(world: World, samples: int) -> np.ndarray:
    """The drums of the whole song, float32 [2, samples]; silence if the band has none."""
    sound = np.zeros((2, samples), dtype=np.float32)
    if not world.drums:
        return sound
    rng = stream(world.seed, "drums")
    kit = {name: make(rng) for name, make in KIT.items()}
    groove = GROOVES[world.energy][rng.integers(len(GROOVES[world.energy]))]
    for stroke in _strokes(world, groove, rng):
        hit = kit[stroke.drum] * stroke.loudness * LOUDNESS[stroke.drum]
        add_at(sound, panned(hit, PAN[stroke.drum]), round(stroke.start_seconds * SAMPLE_RATE_HZ))
    return sound


def _strokes(world: World, groove: Groove, rng: np.random.Generator) -> Iterator[Stroke]:
    for bar in world.bars:
        for drum, beat in _bar_strokes(bar, groove, rng):
            start = bar.start_seconds + beat * world.beat_seconds + rng.uniform(0.0, LATEST_SECONDS)
            yield Stroke(drum, start, rng.uniform(0.9, 1.0) * (1.0 if beat % 1 == 0 else OFFBEAT))


def _bar_strokes(bar: Bar, groove: Groove, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """(drum, beat) of each stroke in `bar`: the groove, a crash where a section begins, a fill where it ends."""
    fill = FILLS[rng.integers(len(FILLS))] if bar.place == SECTION_BARS - 1 else ()
    until = fill[0] if fill else float("inf")
    if bar.place == 0 and bar.section != "intro":
        yield "crash", 0.0
    yield from (("kick", beat) for beat in groove.kick)
    yield from (("snare", beat) for beat in groove.snare if beat < until)
    yield from (("hat", beat) for beat in groove.hat if beat < until)
    yield from (("tom", beat) for beat in fill)


def _kick(rng: np.random.Generator) -> np.ndarray:
    return _thump(
        rng, low_hz=rng.uniform(44.0, 58.0), sweep_hz=rng.uniform(90.0, 160.0), decay_seconds=0.11, click=0.25
    )


def _tom(rng: np.random.Generator) -> np.ndarray:
    return _thump(rng, low_hz=rng.uniform(95.0, 130.0), sweep_hz=60.0, decay_seconds=0.12, click=0.15)


def _snare(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.25)
    skin = np.sin(2 * np.pi * rng.uniform(170.0, 215.0) * time) * np.exp(-time / 0.05)
    wires = _hiss(rng, len(time), 1200.0) * np.exp(-time / rng.uniform(0.05, 0.09))
    return 0.5 * skin + 0.45 * wires


def _hat(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.12)
    return _hiss(rng, len(time), rng.uniform(6500.0, 8500.0)) * np.exp(-time / rng.uniform(0.02, 0.035))


def _crash(rng: np.random.Generator) -> np.ndarray:
    time = _time(1.2)
    return _hiss(rng, len(time), 3500.0) * np.exp(-time / 0.35)


KIT: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "kick": _kick,
    "snare": _snare,
    "hat": _hat,
    "tom": _tom,
    "crash": _crash,
}


def _thump(
    rng: np.random.Generator, *, low_hz: float, sweep_hz: float, decay_seconds: float, click: float
) -> np.ndarray:
    """A skin whose pitch falls to `low_hz`, and the click of the beater."""
    time = _time(5 * decay_seconds)
    cycles = low_hz * time + sweep_hz * 0.03 * (1 - np.exp(-time / 0.03))
    beater = _hiss(rng, len(time), 1500.0) * np.exp(-time / 0.004)
    return np.sin(2 * np.pi * cycles) * np.exp(-time / decay_seconds) + click * beater


def _hiss(rng: np.random.Generator, samples: int, above_hz: float) -> np.ndarray:
    sections = butter(2, above_hz, "highpass", fs=SAMPLE_RATE_HZ, output="sos")
    return sosfilt(sections, rng.standard_normal(samples))


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ

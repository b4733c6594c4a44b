"""How the instruments sound: notes made of wavetables, each group of harmonics with its own decay."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from prep.made_up.signal import SAMPLE_RATE_HZ, harmonic_table, look_up, panned

TOP_HARMONIC_HZ = 14_000.0
HELD = np.inf
"""Decay of a harmonic that sounds as long as the key is down."""


@dataclass(frozen=True)
class HarmonicBand:
    """Harmonics `first` to `last`, which fade together."""

    first: int
    last: int
    decay_seconds: float
    """Time to fall by 8.7 dB at middle C; lower notes ring longer."""


@dataclass(frozen=True)
class Timbre:
    """An instrument: harmonic k has amplitude k ** -tilt * exp(-k * hertz / brightness_hz), further shaped below."""

    tilt: float
    brightness_hz: float
    bands: tuple[HarmonicBand, ...]
    attack_seconds: float
    release_seconds: float
    detune_cents: tuple[float, ...] = (0.0,)
    """One voice each, spread from left to right over `width`."""
    width: float = 0.0
    """0: all voices in the middle; 1: the outer ones at the edges."""
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.0
    plucked_at: float = 0.0
    """Where a string is struck or plucked, as a share of its length; 0: it is neither."""
    even: float = 1.0
    """Amplitude of even harmonics; near 0 is the hollow sound of a square wave."""
    drawbars: tuple[int, ...] = ()
    """The only harmonics there are, if given."""


ALL = HarmonicBand(1, 200, HELD)
TIMBRES = {
    "piano": Timbre(
        tilt=1.0,
        brightness_hz=3500.0,
        bands=(HarmonicBand(1, 2, 0.9), HarmonicBand(3, 6, 0.45), HarmonicBand(7, 200, 0.18)),
        attack_seconds=0.003,
        release_seconds=0.12,
        detune_cents=(-1.3, 1.3),
        width=0.5,
        plucked_at=0.12,
    ),
    "organ": Timbre(
        tilt=0.35,
        brightness_hz=6000.0,
        bands=(ALL,),
        attack_seconds=0.012,
        release_seconds=0.05,
        detune_cents=(-2.0, 2.0),
        width=0.7,
        vibrato_cents=9.0,
        vibrato_hz=6.3,
        drawbars=(1, 2, 3, 4, 6, 8),
    ),
    "strings": Timbre(
        tilt=0.8,
        brightness_hz=3200.0,
        bands=(ALL,),
        attack_seconds=0.11,
        release_seconds=0.22,
        detune_cents=(-11.0, -4.0, 5.0, 12.0),
        width=1.0,
        vibrato_cents=6.0,
        vibrato_hz=5.3,
    ),
    "pluck": Timbre(
        tilt=0.6,
        brightness_hz=5000.0,
        bands=(HarmonicBand(1, 2, 0.4), HarmonicBand(3, 7, 0.22), HarmonicBand(8, 200, 0.07)),
        attack_seconds=0.001,
        release_seconds=0.06,
        plucked_at=0.28,
    ),
    "synth": Timbre(
        tilt=0.85,
        brightness_hz=7000.0,
        bands=(HarmonicBand(1, 4, HELD), HarmonicBand(5, 12, 0.5), HarmonicBand(13, 200, 0.15)),
        attack_seconds=0.006,
        release_seconds=0.08,
        detune_cents=(-9.0, 9.0),
        width=0.9,
        even=0.15,
    ),
    "bass": Timbre(
        tilt=1.1,
        brightness_hz=1200.0,
        bands=(HarmonicBand(1, 3, 0.7), HarmonicBand(4, 200, 0.2)),
        attack_seconds=0.006,
        release_seconds=0.06,
    ),
}


def play(timbre: Timbre, midi: int, seconds: float) -> np.ndarray:
    """One note held for `seconds`, then released: float32 [2, n], RMS about 1/3 at its loudest."""
    time = np.arange(round((seconds + timbre.release_seconds) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tables, fading = _tables(timbre, midi), _decays(timbre, midi, time)
    cycles = _hertz(midi) * (time + _vibrato(timbre, time))
    sound = np.zeros((2, len(time)), dtype=np.float32)
    for cents, place in zip(timbre.detune_cents, _places(timbre), strict=True):
        voice = np.sum(look_up(tables, cycles * 2.0 ** (cents / 1200) + place) * fading, axis=0)
        sound += panned(voice, place)
    return sound * _envelope(timbre, seconds, time) / np.float32(len(timbre.detune_cents))


def _hertz(midi: int) -> float:
    return 440.0 * 2.0 ** ((midi - 69) / 12)


@cache
def _tables(timbre: Timbre, midi: int) -> np.ndarray:
    """A wavetable for each band of the instrument at this pitch, [bands, TABLE_SIZE + 1]; the sum has RMS about 1/3."""
    k = np.arange(1, int(TOP_HARMONIC_HZ / _hertz(midi)) + 1)
    amplitudes = k**-timbre.tilt * np.exp(-k * _hertz(midi) / timbre.brightness_hz)
    amplitudes *= np.where(k % 2 == 0, timbre.even, 1.0)
    if timbre.plucked_at:
        amplitudes *= np.abs(np.sin(np.pi * k * timbre.plucked_at))
    if timbre.drawbars:
        amplitudes *= np.isin(k, timbre.drawbars)
    amplitudes /= 2 * np.sqrt(np.sum(amplitudes**2))
    phases = 0.37 * k**2  # spread over the period, so that no pulse sticks out
    return np.stack(
        [harmonic_table(amplitudes * ((k >= band.first) & (k <= band.last)), phases=phases) for band in timbre.bands]
    )


def _decays(timbre: Timbre, midi: int, time: np.ndarray) -> np.ndarray:
    """How each band fades, float32 [bands, n]."""
    seconds = np.array([band.decay_seconds for band in timbre.bands]) * 2.0 ** ((60 - midi) / 24)
    return np.exp((-time / seconds[:, None]).astype(np.float32))


def _vibrato(timbre: Timbre, time: np.ndarray) -> np.ndarray:
    """How much the vibrato has put the phase ahead, in seconds of a steady tone: [n]."""
    radians_per_second = 2 * np.pi * timbre.vibrato_hz
    return (2.0 ** (timbre.vibrato_cents / 1200) - 1) * np.sin(radians_per_second * time) / radians_per_second


def _envelope(timbre: Timbre, seconds: float, time: np.ndarray) -> np.ndarray:
    """Attack, hold and release as raised cosines, float32 [n]."""
    rise = np.clip(time / timbre.attack_seconds, 0.0, 1.0).astype(np.float32)
    fall = np.clip((time - seconds) / timbre.release_seconds, 0.0, 1.0).astype(np.float32)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 + np.cos(np.pi * fall))


def _places(timbre: Timbre) -> np.ndarray:
    """Where each voice stands, from left to right."""
    voices = len(timbre.detune_cents)
    return np.linspace(-timbre.width, timbre.width, voices) if voices > 1 else np.zeros(1)

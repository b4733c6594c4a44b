"""The sound of a voice: a glottal wave and breath through five moving formants.

F frames of HOP samples, N = F * HOP samples. The formants filter overlapping windows in the frequency domain, frame by
frame, so that they glide without clicks.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.fft import irfft, rfft

from prep.made_up.signal import SAMPLE_RATE_HZ, harmonic_table, look_up

HOP = 256
WINDOW = 1024
FFT_SIZE = 2048
BANDWIDTHS_HZ = (80.0, 95.0, 130.0, 180.0, 250.0)
HIGHER_POLES_HZ, HIGHER_POLES_ORDER = 4000.0, 8.0
"""From here on up the resonances beyond the fifth, which are not modelled, hold the response up."""
SOURCE_TILT = 0.9
"""Harmonic k of the glottal wave (radiation included) has amplitude k ** -SOURCE_TILT."""
LOWEST_TABLE_HZ = 70.0
TABLES_PER_OCTAVE, TABLES = 2, 10
TOP_HARMONIC_HZ = 12_000.0


@dataclass(frozen=True)
class TractControls:
    """What throat and mouth do, one value per frame. Gains are amplitudes, a sung vowel being about 1."""

    midi: np.ndarray  # [F], pitch
    voicing: np.ndarray  # [F], gain of the glottal wave
    aspiration: np.ndarray  # [F], gain of the breath
    formants: np.ndarray  # [5, F], Hz


def frames_in(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ / HOP)


def hertz_of(midi: np.ndarray) -> np.ndarray:
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def utter(tracks: TractControls, rng: np.random.Generator) -> np.ndarray:
    """The sound that `tracks` make, [N]."""
    source = np.pad(_source(tracks, rng), (WINDOW // 2, WINDOW // 2))
    windows = np.lib.stride_tricks.sliding_window_view(source, WINDOW)[::HOP][: len(tracks.midi)]
    tapered = windows * np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    pieces = irfft(rfft(tapered, FFT_SIZE) * _response(tracks), FFT_SIZE) / (WINDOW / HOP / 2)
    summed = np.zeros((len(pieces) + FFT_SIZE // HOP, HOP))
    for number in range(FFT_SIZE // HOP):
        summed[number : number + len(pieces)] += pieces[:, number * HOP : (number + 1) * HOP]
    return summed.ravel()[WINDOW // 2 :][: len(tracks.midi) * HOP]


def _source(tracks: TractControls, rng: np.random.Generator) -> np.ndarray:
    """Glottal wave and breath before the tract, float32 [N]; the wave is read from the two nearest tables."""
    samples = len(tracks.midi) * HOP
    hertz = _per_sample(hertz_of(tracks.midi))
    cycles = np.cumsum(hertz) / SAMPLE_RATE_HZ
    level = np.clip(np.log2(hertz / LOWEST_TABLE_HZ) * TABLES_PER_OCTAVE, 0, TABLES - 1.001)
    wave = np.zeros(samples)
    for number in range(int(level.min()), int(level.max()) + 2):
        share = np.maximum(1.0 - np.abs(level - number), 0.0)
        here = np.flatnonzero(share)
        wave[here] += share[here] * look_up(_glottal_table(number), cycles[here])
    breath = rng.standard_normal(samples, dtype=np.float32)
    return (wave * _per_sample(tracks.voicing) + breath * _per_sample(tracks.aspiration)).astype(np.float32)


def _per_sample(track: np.ndarray) -> np.ndarray:
    """A track [F] drawn out to [N]."""
    return np.interp(np.arange(len(track) * HOP) / HOP, np.arange(len(track)), track)


@cache
def _glottal_table(number: int) -> np.ndarray:
    """One period of the glottal wave for pitches of half octave `number`, with harmonics up to TOP_HARMONIC_HZ."""
    hertz = LOWEST_TABLE_HZ * 2.0 ** (number / TABLES_PER_OCTAVE)
    k = np.arange(1, int(TOP_HARMONIC_HZ / hertz) + 1)
    fade = 0.5 + 0.5 * np.cos(np.pi * (k / (len(k) + 1)) ** 4)
    return harmonic_table(k**-SOURCE_TILT * fade, phases=0.15 * k**0.5 - 0.5 * np.pi)


def _response(tracks: TractControls) -> np.ndarray:
    """Resonators in cascade, complex64 [F, FFT_SIZE / 2 + 1], levelled so that every frame is sung with RMS about 1."""
    hertz = np.fft.rfftfreq(FFT_SIZE, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    below = np.ones((len(tracks.midi), len(hertz)), dtype=np.complex64)
    pole = np.empty_like(below)
    for formant, bandwidth in zip(tracks.formants.astype(np.float32)[..., None], BANDWIDTHS_HZ, strict=True):
        pole.real = 1.0 - (hertz / formant) ** 2
        pole.imag = hertz * np.float32(bandwidth) / formant**2
        below *= pole
    response = (1.0 + (hertz / HIGHER_POLES_HZ) ** 2) ** (HIGHER_POLES_ORDER / 2) / below
    return response / _sung_rms(response, hertz, hertz_of(tracks.midi).astype(np.float32)[:, None])


def _sung_rms(response: np.ndarray, hertz: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """About the RMS of the glottal wave of `pitch` [F, 1] Hz after `response` [F, bins]: [F, 1]."""
    tilt = np.maximum(hertz, 1.0) ** (-2 * SOURCE_TILT)
    power = (response.real**2 + response.imag**2) * tilt * (hertz > 0.7 * pitch)
    bins_per_harmonic = pitch * (FFT_SIZE / SAMPLE_RATE_HZ)
    return np.sqrt(0.5 * power.sum(axis=1, keepdims=True) * pitch ** (2 * SOURCE_TILT) / bins_per_harmonic)

"""Small tools of synthesis: wavetables, smoothing, placing a sound in a longer one."""

import numpy as np
from scipy.signal import butter, sosfilt

SAMPLE_RATE_HZ = 44_100
"""Of made-up songs."""
TABLE_SIZE = 4096
"""Samples of one period in a wavetable."""


def harmonic_table(amplitudes: np.ndarray, *, phases: np.ndarray | None = None) -> np.ndarray:
    """One period, float32 [TABLE_SIZE + 1] (the first sample repeated at the end), of harmonics 1, 2, ...

    `amplitudes` [K]; `phases` [K] in radians, zero (cosines) by default.
    """
    spectrum = np.zeros(TABLE_SIZE // 2 + 1, dtype=np.complex128)
    turns = 1.0 if phases is None else np.exp(1j * phases)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * turns * (TABLE_SIZE / 2)
    period = np.fft.irfft(spectrum, TABLE_SIZE)
    return np.append(period, period[0]).astype(np.float32)


def look_up(table: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Read wavetables [..., TABLE_SIZE + 1] at phases [n] in cycles, linearly between their samples: [..., n]."""
    place = (cycles - np.floor(cycles)) * TABLE_SIZE
    index = place.astype(np.int32)
    share = (place - index).astype(np.float32)
    left = table[..., index]
    return left + share * (table[..., index + 1] - left)


def smooth(track: np.ndarray, frames: int) -> np.ndarray:
    """Move along `track` [..., F] with a raised-cosine window of about `frames` frames; the ends are held."""
    window = np.hanning(frames + 2)[1:-1]
    window /= window.sum()
    before = (frames - 1) // 2
    padded = np.pad(track, [(0, 0)] * (track.ndim - 1) + [(before, frames - 1 - before)], mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, frames, axis=-1) @ window


def add_at(target: np.ndarray, sound: np.ndarray, start: int) -> None:
    """Add `sound` [..., n] to `target` [..., N] from sample `start`; what falls outside is left out."""
    first, last = max(start, 0), min(start + sound.shape[-1], target.shape[-1])
    if first < last:
        target[..., first:last] += sound[..., first - start : last - start]


def panned(sound: np.ndarray, pan: float) -> np.ndarray:
    """`sound` [n] at `pan` (-1 left, 1 right) with equal power: [2, n]."""
    angle = (pan + 1) * np.pi / 4
    return np.stack([sound * np.float32(np.cos(angle)), sound * np.float32(np.sin(angle))])


def band_noise(samples: int, band_hz: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Noise of RMS about 1 between two frequencies, [samples]."""
    sections = butter(3, band_hz, "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    noise = sosfilt(sections, rng.standard_normal(samples))
    return noise / np.sqrt(2 * (band_hz[1] - band_hz[0]) / SAMPLE_RATE_HZ)

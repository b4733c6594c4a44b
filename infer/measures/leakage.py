"""Is the voice still in the band? Two measures that need no separator (evaluation section 1.2, measures A and C).

M samples of mono at 22.05 kHz; K bins and F frames of a spectrogram [K, F].
"""

from dataclasses import dataclass

import librosa
import numpy as np
import scipy.linalg
import scipy.ndimage

from infer.measures.clip import ACTIVE_RANGE_DB, Clip

WINDOW_SAMPLES, STEP_SAMPLES = 4096, 1024
NEIGHBOURS = 25
"""Bins whose mean is the smooth part of a spectrum; what stands above it is its fine structure."""
FLOOR = 1e-4
"""Amplitudes below this share of the loudest are no structure."""
TAPS = 256
"""Length of the filter through which the vocal may have passed, centred on no delay: 12 ms."""
RIDGE = 1e-6
"""Share of the vocal's power that steadies the projection."""
SHIFTS = np.arange(1, 9) / 9
"""Displacements of the null, as shares of the clip: the same sounds, at times unrelated to each other."""
LEAST_SHARE = 1e-6
"""Shares of energy below this read -60 dB."""


@dataclass(frozen=True)
class Leakage:
    """How much of the vocal is in the band."""

    fine: float
    """Cosine of the fine structures where the vocal sounds, above that of shifted times: clean bands are near 0.

    It also finds a voice that went through a codec, which changes phases.
    """
    projection_db: float
    """Share of the band's energy that is the vocal through some short filter: finds what was mixed in as a wave."""


def measure_leakage(vocal: Clip, band: Clip) -> Leakage:
    return Leakage(
        fine=fine_structure_excess(vocal.mono, band.mono), projection_db=projection_db(vocal.mono, band.mono)
    )


def fine_structure_excess(vocal: np.ndarray, band: np.ndarray) -> float:
    """Mean cosine of fine structures over the vocal's active frames, minus its mean over time shifts of the band."""
    samples = min(vocal.size, band.size)
    sung, played = (_magnitudes(wave[:samples]) for wave in (vocal, band))
    levels = np.sqrt(np.mean(sung**2, axis=0))
    active = levels > levels.max(initial=0.0) * 10 ** (-ACTIVE_RANGE_DB / 20)
    if not active.any():
        return 0.0
    voice, music = fine_structure(sung), fine_structure(played)
    agreement = [_agreement(voice, np.roll(music, shift, axis=1), active) for shift in _shifts(voice.shape[1])]
    return _agreement(voice, music, active) - float(np.mean(agreement))


def fine_structure(magnitudes: np.ndarray) -> np.ndarray:
    """What stands above its neighbourhood in a log spectrum, each frame of length one: [K, F]."""
    logs = np.log(np.maximum(magnitudes, max(FLOOR * magnitudes.max(initial=0.0), 1e-9)))
    peaks = np.maximum(logs - scipy.ndimage.uniform_filter1d(logs, NEIGHBOURS, axis=0), 0.0)
    return peaks / np.maximum(np.linalg.norm(peaks, axis=0, keepdims=True), 1e-9)


def projection_db(vocal: np.ndarray, band: np.ndarray) -> float:
    """Share of the band's energy, in dB, that a filter of TAPS makes from the vocal, less that of time shifts."""
    samples = min(vocal.size, band.size)
    voice, music = (wave[:samples].astype(np.float64) for wave in (vocal, band))
    energy = float(np.sum(music**2))
    if energy == 0.0 or not voice.any():
        return 10 * np.log10(LEAST_SHARE)
    spectrum = np.fft.rfft(voice)
    auto = np.fft.irfft(np.abs(spectrum) ** 2, samples)[:TAPS]
    cross = np.fft.irfft(np.conj(spectrum) * np.fft.rfft(music), samples)
    lags = np.arange(TAPS) - TAPS // 2
    targets = np.stack([cross[(lags + shift) % samples] for shift in (0, *_shifts(samples))], axis=1)
    auto[0] *= 1 + RIDGE
    filters = scipy.linalg.solve(scipy.linalg.toeplitz(auto), targets, assume_a="pos")
    shares = np.sum(filters * targets, axis=0) / energy
    return float(10 * np.log10(max(shares[0] - shares[1:].mean(), LEAST_SHARE)))


def _magnitudes(wave: np.ndarray) -> np.ndarray:
    return np.abs(librosa.stft(wave, n_fft=WINDOW_SAMPLES, hop_length=STEP_SAMPLES))


def _agreement(one: np.ndarray, other: np.ndarray, active: np.ndarray) -> float:
    return float(np.mean(np.sum(one * other, axis=0)[active]))


def _shifts(length: int) -> list[int]:
    return [round(share * length) for share in SHIFTS]

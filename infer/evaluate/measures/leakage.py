"""Is the voice still in the band? Two measures that need no separator (docs/evaluation.md#leakage).

M samples of mono at 22.05 kHz; K bins and F frames of a spectrogram [K, F].
"""

from dataclasses import dataclass

import librosa
import numpy as np
import scipy.ndimage

from common.audio.leakage import projection_db, shifts
from infer.evaluate.measures.clip import ACTIVE_RANGE_DB, Clip

WINDOW_SAMPLES, STEP_SAMPLES = 4096, 1024
NEIGHBOURS = 25
"""Bins whose mean is the smooth part of a spectrum; what stands above it is its fine structure."""
FLOOR = 1e-4
"""Amplitudes below this share of the loudest are no structure."""


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
    agreement = [_agreement(voice, np.roll(music, shift, axis=1), active) for shift in shifts(voice.shape[1])]
    return _agreement(voice, music, active) - float(np.mean(agreement))


def fine_structure(magnitudes: np.ndarray) -> np.ndarray:
    """What stands above its neighbourhood in a log spectrum, each frame of length one: [K, F]."""
    logs = np.log(np.maximum(magnitudes, max(FLOOR * magnitudes.max(initial=0.0), 1e-9)))
    peaks = np.maximum(logs - scipy.ndimage.uniform_filter1d(logs, NEIGHBOURS, axis=0), 0.0)
    return peaks / np.maximum(np.linalg.norm(peaks, axis=0, keepdims=True), 1e-9)


def _magnitudes(wave: np.ndarray) -> np.ndarray:
    return np.abs(librosa.stft(wave, n_fft=WINDOW_SAMPLES, hop_length=STEP_SAMPLES))


def _agreement(one: np.ndarray, other: np.ndarray, active: np.ndarray) -> float:
    return float(np.mean(np.sum(one * other, axis=0)[active]))

"""Is it a proper recording at all? (docs/evaluation.md#what-is-measured)

N samples of a stereo wave [2, N] at 44.1 kHz.
"""

import math
from dataclasses import dataclass

import librosa
import numpy as np

from common.audio.wave import LOUDNESS_BLOCK_SECONDS, decibels, frame_levels, loudness_lufs, peak_dbfs
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, Clip

FULL_SCALE = 1 - 2.0**-15
"""A sample from here on counts as clipped."""
LENGTH_ERROR_SECONDS = 4096 / MEASURED_RATE_HZ
"""A band whose length differs from the vocal's by more is at fault; a latent frame of ACE-Step v1 is as long."""
LEVEL_SAMPLES = round(0.04 * MEASURED_RATE_HZ)
SILENT_DBFS = -50.0
"""A frame of 40 ms below this is silent."""
ROLL_OFF = 0.95
MOST_FLAT = 0.3
"""White noise has a flatness of about 0.56; music, speech and drums lie far below this."""
MOST_SILENT = 0.9
LEVEL_RANGE_DB = (-18.0, 3.0)
"""RMS of a band over that of its vocal."""
DC_DBFS = -40.0


@dataclass(frozen=True)
class Sanity:
    """Plain facts about a band; None where silence has no such figure."""

    length_error_seconds: float
    """Length less that of the vocal."""
    clipped: float
    """Share of samples at full scale."""
    dc_dbfs: float | None
    """Level of the mean."""
    lufs: float | None
    peak_dbfs: float | None
    silent: float
    """Share of 40 ms frames below -50 dBFS."""
    coverage: float | None
    """Share of the frames in which the true band sounds where this one does too."""
    rolloff_hz: float | None
    """Frequency below which 95 % of the energy lies."""
    flatness: float | None
    """Geometric over arithmetic mean of the power spectrum: 0 a tone, about 0.56 white noise."""
    stereo_correlation: float | None
    """Of left and right: 1 is mono."""
    over_vocal_db: float | None
    """RMS of the band over that of the vocal."""


def measure_sanity(vocal: Clip, band: Clip, true: Clip | None) -> Sanity:
    wave, levels = band.wave, frame_levels(band.wave, frame_samples=LEVEL_SAMPLES)
    tones = librosa.stft(band.mono, n_fft=2048, hop_length=512)
    power = np.mean(np.abs(tones) ** 2, axis=1)
    return Sanity(
        length_error_seconds=(wave.shape[1] - vocal.wave.shape[1]) / MEASURED_RATE_HZ,
        clipped=float(np.mean(np.abs(wave) >= FULL_SCALE)),
        dc_dbfs=_finite(decibels(float(np.abs(wave.mean(axis=1)).max()))),
        lufs=_loudness(wave),
        peak_dbfs=_finite(peak_dbfs(wave)),
        silent=float(np.mean(levels < SILENT_DBFS)),
        coverage=None if true is None else _coverage(levels, true),
        rolloff_hz=_roll_off(power),
        flatness=_flatness(tones),
        stereo_correlation=_correlation(wave),
        over_vocal_db=_finite(decibels(_rms(wave)) - decibels(_rms(vocal.wave))) if _rms(vocal.wave) else None,
    )


def faults(facts: Sanity) -> tuple[str, ...]:
    """What is wrong with a band, in words; nothing for a proper one."""
    low, high = LEVEL_RANGE_DB
    found = {
        "length": abs(facts.length_error_seconds) > LENGTH_ERROR_SECONDS,
        "clipped": facts.clipped > 0,
        "dc": facts.dc_dbfs is not None and facts.dc_dbfs > DC_DBFS,
        "silent": facts.silent > MOST_SILENT,
        "noise": facts.flatness is not None and facts.flatness > MOST_FLAT,
        "level": facts.over_vocal_db is not None and not low <= facts.over_vocal_db <= high,
    }
    return tuple(name for name, wrong in found.items() if wrong)


def _coverage(levels: np.ndarray, true: Clip) -> float | None:
    wanted = frame_levels(true.wave, frame_samples=LEVEL_SAMPLES) >= SILENT_DBFS
    frames = min(levels.size, wanted.size)
    here = wanted[:frames]
    return float(np.mean(levels[:frames][here] >= SILENT_DBFS)) if here.any() else None


def _roll_off(power: np.ndarray) -> float | None:
    if not power.any():
        return None
    bin_ = int(np.searchsorted(np.cumsum(power), ROLL_OFF * power.sum()))
    return bin_ * ANALYSIS_RATE_HZ / (2 * (power.size - 1))


def _flatness(tones: np.ndarray) -> float | None:
    """Median over the frames that sound."""
    power = np.abs(tones) ** 2
    sounding = power.sum(axis=0) > 1e-6 * power.sum(axis=0).max(initial=0.0)
    if not sounding.any():
        return None
    inner = power[1:-1, sounding] + 1e-20
    return float(np.median(np.exp(np.log(inner).mean(axis=0)) / inner.mean(axis=0)))


def _loudness(wave: np.ndarray) -> float | None:
    if wave.shape[1] < LOUDNESS_BLOCK_SECONDS * MEASURED_RATE_HZ:
        return None
    return _finite(loudness_lufs(wave, MEASURED_RATE_HZ))


def _correlation(wave: np.ndarray) -> float | None:
    left, right = wave - wave.mean(axis=1, keepdims=True)
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 else None


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

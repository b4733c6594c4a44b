"""From decoded waves to what is written: 48 kHz, the vocal's exact length, and vocal and band together.

N samples of a stereo wave [2, N].
"""

import numpy as np

from common.audio import PEAK_CEILING_DBFS, peak_dbfs, resample
from common.latents import SAMPLE_RATE_HZ

OUTPUT_RATE_HZ = 48_000
"""Rate of everything that infer writes."""


def output_samples(samples: int, rate_hz: int) -> int:
    """Length at 48 kHz of a clip of `samples` at `rate_hz`, to the nearest sample."""
    return round(samples * OUTPUT_RATE_HZ / rate_hz)


def at_output_rate(wave: np.ndarray, samples: int) -> np.ndarray:
    """A wave at 44.1 kHz as `samples` at 48 kHz; resampling gives at most one sample more, which is cut."""
    resampled = resample(np.ascontiguousarray(wave), SAMPLE_RATE_HZ, OUTPUT_RATE_HZ)
    assert resampled.shape[-1] >= samples, f"{resampled.shape[-1]} samples for {samples}"
    return resampled[:, :samples]


def mixdown(vocal: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Vocal and band together at the levels that they had in training, lowered where a peak would pass -1 dBFS."""
    return below_ceiling(vocal + band)


def below_ceiling(wave: np.ndarray) -> np.ndarray:
    """The wave, lowered as a whole where its peak would pass -1 dBFS."""
    gain_db = min(0.0, PEAK_CEILING_DBFS - peak_dbfs(wave))
    return wave * np.float32(10 ** (gain_db / 20))

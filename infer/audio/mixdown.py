"""From decoded waves to what is written: 48 kHz, the vocal's exact length, and vocal and band together.

Waves [2, N] come in blocks [2, n], or lie on the disk, so that none is ever held whole.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from common.audio.wave import PEAK_CEILING_DBFS, peak_dbfs, resample_blocks
from common.config import Config

OUTPUT_RATE_HZ = 48_000
"""Rate of everything that infer writes."""


class MixdownSettings(Config):
    """How vocal and band become KEY_mix.wav."""

    vocal_db: Annotated[float, Field(ge=-40, le=40)] = 0.0
    """Gain of the vocal over the level that it had beside the band in training."""
    peak_dbfs: Annotated[float, Field(ge=-40, le=0)] = PEAK_CEILING_DBFS
    """Highest peak; a mix that would pass it is lowered as a whole."""


def output_samples(samples: int, rate_hz: int) -> int:
    """Length at 48 kHz of a clip of `samples` at `rate_hz`, to the nearest sample."""
    return round(samples * OUTPUT_RATE_HZ / rate_hz)


def at_output_rate(blocks: Iterable[np.ndarray], rate_hz: int, samples: int) -> Iterator[np.ndarray]:
    """A wave at `rate_hz` as `samples` at 48 kHz; resampling gives at most one sample more, which is cut."""
    left = samples
    for block in resample_blocks(blocks, rate_hz, OUTPUT_RATE_HZ):
        yield block[:, :left]
        left -= min(left, block.shape[1])
    assert not left, f"{samples - left} samples for {samples}"


def mixdown(vocal: DiskWave, band: DiskWave, settings: MixdownSettings) -> Iterator[np.ndarray]:
    """Vocal and band together at the levels that they had in training, but for what the settings say."""
    assert vocal.samples == band.samples
    gain = _factor(settings.vocal_db)

    def together() -> Iterator[np.ndarray]:
        for start in range(0, band.samples, BLOCK_SAMPLES):
            yield gain * vocal.read(start, start + BLOCK_SAMPLES) + band.read(start, start + BLOCK_SAMPLES)

    return _lowered(together(), _factor_below(together(), settings.peak_dbfs))


def below_ceiling(mix: DiskWave, settings: MixdownSettings) -> Iterator[np.ndarray]:
    """A mix that was made as one, lowered as a whole where its peak would pass the settings' highest."""
    return _lowered(mix.blocks(), _factor_below(mix.blocks(), settings.peak_dbfs))


def _factor_below(blocks: Iterable[np.ndarray], highest_dbfs: float) -> np.float32:
    return _factor(min(0.0, highest_dbfs - max(map(peak_dbfs, blocks))))


def _lowered(blocks: Iterable[np.ndarray], factor: np.float32) -> Iterator[np.ndarray]:
    return (block * factor for block in blocks)


def _factor(gain_db: float) -> np.float32:
    return np.float32(10 ** (gain_db / 20))

"""The constants that normalise a vocal latent, from sums that each shard keeps (docs/formulation.md, section 3).

C latent channels, H latent rows, T latent frames; z' = z - silence, the latent of digital silence [C, H].
"""

from collections.abc import Iterable
from statistics import median
from typing import Self

import numpy as np

from common.latents import LatentStatistics
from shards.manifest import ShardEntry, VocalMoments
from shards.schema import SUNG, Sample


class SungSums:
    """Running sums of z' and its square over rows and sung frames."""

    def __init__(self, silence: np.ndarray) -> None:
        self._silence = silence.astype(np.float64)[..., None]
        self._frames = 0
        self._sums = np.zeros((2, silence.shape[0]))

    def add(self, sample: Sample) -> Self:
        """Count one sample's vocal."""
        sung = sample.activity >= SUNG
        centred = sample.vocal[..., sung].astype(np.float64) - self._silence
        self._sums += np.stack([centred.sum(axis=(1, 2)), np.square(centred).sum(axis=(1, 2))])
        self._frames += int(sung.sum())
        return self

    def moments(self) -> VocalMoments:
        """The sums as a shard's entry keeps them."""
        sums, square_sums = self._sums.tolist()
        return VocalMoments(frames=self._frames, sums=tuple(sums), square_sums=tuple(square_sums))


def vocal_level(shards: Iterable[ShardEntry]) -> float | None:
    """Median loudness of the vocals in shards, in LUFS; None where nobody sings."""
    levels = [s.vocal_lufs for shard in shards for s in shard.segments if s.vocal_lufs is not None]
    return median(levels) if levels else None


def latent_statistics(silence: np.ndarray, shards: Iterable[ShardEntry]) -> LatentStatistics | None:
    """Mean and RMS of z' by channel over all shards; None where nobody sings."""
    kept = [shard.vocal for shard in shards if shard.vocal is not None]
    count = sum(shard.frames for shard in kept) * silence.shape[1]
    if count == 0:
        return None
    mean = np.sum([shard.sums for shard in kept], axis=0) / count
    rms = np.sqrt(np.sum([shard.square_sums for shard in kept], axis=0) / count)
    rows = tuple(tuple(row) for row in silence.astype(np.float64).tolist())
    return LatentStatistics(silence=rows, mean=tuple(mean.tolist()), std=tuple(rms.tolist()))

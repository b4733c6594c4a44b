"""A region of a wave, taken from another that was made for the same place.

N samples of a wave [2, N], T latent frames.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from common.latents import LatentLayout

FADE_SECONDS = 0.1
"""One wave gives way to the other over so much of either end of a region, at most a quarter of it."""


@dataclass(frozen=True)
class Region:
    """From where to where, in seconds."""

    start: float
    end: float

    def frames(self, latents: LatentLayout) -> slice:
        """The latent frames under it, those at its ends too."""
        rate = latents.frames_per_second
        return slice(math.floor(self.start * rate), math.ceil(self.end * rate))

    def samples(self, rate_hz: int) -> slice:
        return slice(round(self.start * rate_hz), round(self.end * rate_hz))


def spliced(kept: DiskWave, made: DiskWave, region: Region) -> Iterator[np.ndarray]:
    """`kept` with `made` in the region, in blocks [2, n]: bit for bit `kept` outside.

    The cross-fade, linear, lies within the region; there is none where the region begins or ends with the wave.
    """
    assert kept.samples == made.samples
    for start in range(0, kept.samples, BLOCK_SAMPLES):
        old, new = (wave.read(start, start + BLOCK_SAMPLES) for wave in (kept, made))
        of_new = _share_of_new(np.arange(start, start + old.shape[1]), kept, region)
        yield np.where(of_new > 0, of_new * new + (1 - of_new) * old, old)


def _share_of_new(places: np.ndarray, wave: DiskWave, region: Region) -> np.ndarray:
    """How much of the samples at these places [n] is of the region's wave, float32 [n]."""
    within = region.samples(wave.rate_hz)
    fade = min(round(FADE_SECONDS * wave.rate_hz), (within.stop - within.start) // 4)
    since = (places + 0.5 - within.start) / fade if within.start > 0 else np.full(places.shape, np.inf)
    until = (within.stop - places - 0.5) / fade if within.stop < wave.samples else np.full(places.shape, np.inf)
    return np.clip(np.minimum(since, until), 0, 1).astype(np.float32)

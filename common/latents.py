"""What latents are to all rooms: their layout, which differs by base model, and the constants that normalise them.

C latent channels, H latent rows, T latent frames.
"""

import math
from dataclasses import dataclass
from typing import Self

from pydantic import model_validator

from common.config import Config


@dataclass(frozen=True)
class LatentLayout:
    """How a base model's latents [C, H, T] lie over sound."""

    sample_rate_hz: int
    """Rate of the sound that the codec takes and gives."""
    frame_samples: int
    """Samples under one latent frame."""
    channels: int
    """C."""
    rows: int
    """H; 1 for latents that have no rows."""

    @property
    def frames_per_second(self) -> float:
        """Latent frames in a second of sound."""
        return self.sample_rate_hz / self.frame_samples

    @property
    def frame_values(self) -> int:
        """Numbers in one latent frame, C * H."""
        return self.channels * self.rows

    def frames_of(self, samples: int) -> int:
        """T of a clip of `samples`, the last frame filled up: ceil(samples / frame_samples)."""
        return math.ceil(samples / self.frame_samples)


class LatentStatistics(Config):
    """Constants that normalise a vocal latent: v = (z - silence) / std (docs/formulation.md, section 3)."""

    silence: tuple[tuple[float, ...], ...]
    """Latent of digital silence, [C][H]."""
    mean: tuple[float, ...]
    """Mean of z - silence over rows and active frames of the training vocals, [C]."""
    std: tuple[float, ...]
    """RMS of z - silence over rows and active frames of the training vocals, [C]."""

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        channels, rows = self.shape
        if {len(row) for row in self.silence} != {rows} or {len(self.mean), len(self.std)} != {channels}:
            lengths = f"mean {len(self.mean)}, std {len(self.std)}"
            raise ValueError(f"silence has {channels} channels of {rows} rows, but {lengths} numbers or uneven rows")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(C, H)."""
        return len(self.silence), len(self.silence[0]) if self.silence else 0

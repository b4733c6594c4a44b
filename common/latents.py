"""The latent grid of ACE-Step's codec: constants that prep, shards, train and infer must agree on.

C latent channels (8), H latent rows (16), T latent frames (44100 / 4096 = 10.7666 a second).
docs/upstream.md, section 5.1.
"""

import math
from typing import Annotated

from pydantic import Field

from common.config import Config

SAMPLE_RATE_HZ = 44_100
"""Rate that the codec works at."""
FRAME_SAMPLES = 4096
"""Audio samples (at SAMPLE_RATE_HZ) under one latent frame: mel hop 512 times time factor 8."""
LATENT_CHANNELS = 8
LATENT_ROWS = 16
FRAMES_PER_SECOND = SAMPLE_RATE_HZ / FRAME_SAMPLES


def frames_of(samples: int) -> int:
    """Latent frames of a clip of `samples` at SAMPLE_RATE_HZ: ceil(samples / 4096)."""
    return math.ceil(samples / FRAME_SAMPLES)


ByRow = Annotated[tuple[float, ...], Field(min_length=LATENT_ROWS, max_length=LATENT_ROWS)]
ByChannel = Annotated[tuple[float, ...], Field(min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS)]


class LatentStatistics(Config):
    """Constants that normalise a vocal latent: v = (z - silence) / std (docs/formulation.md, section 3)."""

    silence: Annotated[tuple[ByRow, ...], Field(min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS)]
    """Latent of digital silence, [C][H]."""
    mean: ByChannel
    """Mean of z - silence over rows and active frames of the training vocals, [C]."""
    std: ByChannel
    """RMS of z - silence over rows and active frames of the training vocals, [C]."""

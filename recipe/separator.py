"""The separator: a small HTDemucs that tells the singer from the band.

B clips, K stems (band, singer), N samples.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from demucs.htdemucs import HTDemucs
from pydantic import Field
from torch import Tensor

from common.bases import ACE_STEP_1
from common.config import Config
from models.acestep1.sizes import TINY_SEPARATOR
from recipe.corpus import Corpus
from train.fitting import Draws, Trained, TrainingSettings, fit

LATENTS = ACE_STEP_1.latents


class SeparatorSettings(Config):
    training: TrainingSettings = TrainingSettings(steps=1000, batch=4, learning_rate=1e-3)
    remixed_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often the singer stands before another song's band, so that their harmony gives no hint."""
    gain_db: float = 4.0
    """Each stem is made softer or louder by up to this."""
    ceiling_db: float = 30.0
    """Separation that is good enough: beyond it the loss hardly falls."""


def new_separator() -> HTDemucs:
    return HTDemucs(**TINY_SEPARATOR)


def train_separator(
    folder: Path, separator: HTDemucs, corpus: Corpus, settings: SeparatorSettings, *, seed: int
) -> Trained:
    device = next(separator.parameters()).device

    def losses(draws: Draws) -> dict[str, Tensor]:
        stems = torch.stack([draw_stems(corpus, settings, draws.numpy) for _ in range(settings.training.batch)])
        stems = normalised(stems.to(device))
        return {"error_db": error_db(separator(stems.sum(1)), stems, settings.ceiling_db)}

    return fit(folder, separator, losses, settings.training, about=settings, seed=seed)


def draw_stems(corpus: Corpus, settings: SeparatorSettings, rng: np.random.Generator) -> Tensor:
    """Band and singer over one segment of the separator. [K, 2, N]"""
    samples = TINY_SEPARATOR["segment"] * LATENTS.sample_rate_hz
    crop = corpus.crop(rng, samples)
    band = corpus.crop(rng, samples).inst if rng.random() < settings.remixed_share else crop.inst
    gains = 10 ** (rng.uniform(-settings.gain_db, settings.gain_db, size=(2, 1, 1)) / 20)
    return torch.from_numpy(np.stack([band, crop.vocal]) * gains.astype(np.float32))


def normalised(stems: Tensor) -> Tensor:
    """Stems [B, K, 2, N] whose sum has deviation 1, as the separator is fed. [B, K, 2, N]"""
    deviation = stems.sum(1).mean(1).std(-1) + 1e-5
    return stems / deviation[:, None, None, None]


def error_db(made: Tensor, true: Tensor, ceiling_db: float) -> Tensor:
    """Power of the error of each stem over that of the mix, in dB, with a soft floor at -ceiling_db. [B, K, 2, N]"""
    mix = true.sum(1, keepdim=True).square().sum((2, 3)) + 1e-5
    error = (made - true).square().sum((2, 3)) / mix
    return 10 * torch.log10(error + 10 ** (-ceiling_db / 10)).mean()

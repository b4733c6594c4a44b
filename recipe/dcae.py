"""The DCAE: log-mels to latents and back, with scaled latents of about zero mean and unit variance per channel.

B clips, C latent channels (8), H latent rows (16), T latent frames, N samples, F = 8·T mel frames.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from common.bases import ACE_STEP_1
from common.config import Config
from models.acestep1.codec.codec import LATENT_SCALE, LATENT_SHIFT, Codec, CodecConfig, normalise_mel
from models.acestep1.codec.mel import log_mel
from models.acestep1.sizes import TINY
from models.loading.weights import network_config
from recipe.corpus import Corpus, draw_wave
from train.fitting import Draws, Trained, TrainingSettings, fit

LATENTS = ACE_STEP_1.latents


class CodecSettings(Config):
    training: TrainingSettings = TrainingSettings(steps=4000, batch=6, learning_rate=2e-3)
    frames: Annotated[int, Field(ge=1)] = 16
    """Latent frames of a crop."""
    shares: tuple[float, float, float] = (0.25, 0.375, 0.375)
    """How often a vocal, an accompaniment and a mix are drawn."""
    gain_db: tuple[float, float] = (-8.0, 2.0)
    """Crops are made softer or louder by this."""
    latent_noise: Annotated[float, Field(ge=0)] = 0.1
    """Deviation of the noise on scaled latents that the decoder must bear: what the transformer makes is not exact."""
    moment_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the penalty on latents whose mean is not 0 or whose variance is not 1."""


def new_codec() -> Codec:
    return Codec(network_config(CodecConfig, TINY.codec, "codec"), encoder=True, decoder=True)


def train_codec(folder: Path, codec: Codec, corpus: Corpus, settings: CodecSettings, *, seed: int) -> Trained:
    device, samples = next(codec.parameters()).device, settings.frames * LATENTS.frame_samples

    def losses(draws: Draws) -> dict[str, Tensor]:
        waves = [
            draw_wave(corpus, samples, shares=settings.shares, gain_db=settings.gain_db, rng=draws.numpy)
            for _ in range(settings.training.batch)
        ]
        mel = normalise_mel(log_mel(torch.from_numpy(np.concatenate(waves)).to(device))).unflatten(0, (-1, 2))
        latents = encode(codec, mel)
        noise = torch.randn(latents.shape, generator=draws.torch, device=device)
        decoded = decode(codec, latents + settings.latent_noise * noise)
        return {
            "l1": functional.l1_loss(decoded, mel),
            "l2": functional.mse_loss(decoded, mel),
            "moments": settings.moment_weight * moment_penalty(latents),
        }

    return fit(folder, codec, losses, settings.training, about=settings, seed=seed)


def encode(codec: Codec, mel: Tensor) -> Tensor:
    """Scaled latents of a batch of normalised mels. [B, 2, 128, F] -> [B, C, H, T]"""
    assert codec.encoder is not None
    return (codec.encoder(mel) - LATENT_SHIFT) * LATENT_SCALE


def decode(codec: Codec, latents: Tensor) -> Tensor:
    """Normalised mels of a batch of scaled latents. [B, C, H, T] -> [B, 2, 128, F]"""
    assert codec.decoder is not None
    return codec.decoder(latents / LATENT_SCALE + LATENT_SHIFT)


def moment_penalty(latents: Tensor) -> Tensor:
    """How far the channels of [B, C, H, T] are from mean 0 and variance 1."""
    variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
    return mean.square().mean() + (variance - 1).square().mean()

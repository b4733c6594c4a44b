"""The vocoder: log-mels to magnitudes, which Griffin-Lim makes waves of; from true mels and from those of the codec.

A HiFi-GAN head of this size, trained as long on spectra alone, gave a hum at the rate of the mel frames and no pitches.
A network that must make the magnitudes whole, and not only what the mel lacks, lost the pitches too.

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
from models.acestep1.codec.codec import Codec, denormalise_mel, normalise_mel
from models.acestep1.codec.mel import log_mel, magnitudes, mel_tables
from models.acestep1.codec.vocoder import GriffinLimConfig, GriffinLimHead, Vocoder
from models.acestep1.sizes import TINY
from models.loading.weights import network_config
from recipe.corpus import AUDIO_NAMES, Corpus
from recipe.dcae import decode, encode
from train.fitting import Draws, Trained, TrainingSettings, fit

LATENTS = ACE_STEP_1.latents

MEL_MEAN = -5.0
"""Of a log-mel, about."""
FIRST_GAMMA = 0.3
"""Layer scale to begin with; the published 1e-6 is for trainings of many days."""


class VocoderSettings(Config):
    training: TrainingSettings = TrainingSettings(steps=4000, batch=8, learning_rate=1e-3)
    frames: Annotated[int, Field(ge=2)] = 8
    """Latent frames of a crop."""
    decoded_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the mels that have been through the codec."""
    gain_db: tuple[float, float] = (-8.0, 2.0)
    """Crops are made softer or louder by this."""


@torch.no_grad()
def new_vocoder() -> Vocoder:
    """Before training it adds nothing to what the mel says, and its first layer gets mels around 0."""
    vocoder = Vocoder(network_config(GriffinLimConfig, TINY.vocoder, "vocoder"))
    for name, parameter in vocoder.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, FIRST_GAMMA)
    stem, to_bins = vocoder.get_submodule("backbone.channel_layers.0.0"), vocoder.get_submodule("head.to_bins")
    assert isinstance(stem, torch.nn.Conv1d)
    assert isinstance(to_bins, torch.nn.Conv1d)
    assert stem.bias is not None
    stem.bias -= MEL_MEAN * stem.weight.sum((1, 2))
    for parameter in to_bins.parameters():
        torch.nn.init.zeros_(parameter)
    return vocoder


def train_vocoder(
    folder: Path, vocoder: Vocoder, codec: Codec, corpus: Corpus, settings: VocoderSettings, *, seed: int
) -> Trained:
    """`codec` is trained already."""
    device, head = next(vocoder.parameters()).device, vocoder.head
    assert isinstance(head, GriffinLimHead)
    decoded = round(settings.decoded_share * settings.training.batch)

    def losses(draws: Draws) -> dict[str, Tensor]:
        waves = torch.stack([draw_wave(corpus, settings, draws.numpy) for _ in range(settings.training.batch)])
        waves = waves.to(device)
        mel = log_mel(waves.flatten(0, 1)).unflatten(0, (-1, 2))
        mel = torch.cat([through(codec, mel[:decoded]), mel[decoded:]])
        channel = int(draws.numpy.integers(2))
        mel = mel[:, channel]
        log_made = head.log_magnitudes(vocoder.backbone(mel), mel)
        return spectral_losses(log_made, waves[:, channel])

    return fit(folder, vocoder, losses, settings.training, about=settings, seed=seed)


def draw_wave(corpus: Corpus, settings: VocoderSettings, rng: np.random.Generator) -> Tensor:
    """A crop of a vocal, an accompaniment or a mix, at a drawn level. [2, N]"""
    crop = corpus.crop(rng, settings.frames * LATENTS.frame_samples).audio(
        AUDIO_NAMES[int(rng.integers(len(AUDIO_NAMES)))]
    )
    return torch.from_numpy(crop * np.float32(10 ** (rng.uniform(*settings.gain_db) / 20)))


@torch.no_grad()
def through(codec: Codec, mel: Tensor) -> Tensor:
    """Log-mels [B, 2, 128, F] as the codec gives them back."""
    return denormalise_mel(decode(codec, encode(codec, normalise_mel(mel)))) if len(mel) else mel


def spectral_losses(log_made: Tensor, wave: Tensor) -> dict[str, Tensor]:
    """How far log-magnitudes [B, 1025, F] are from those of a wave [B, 512·F], and magnitudes by their share."""
    true = magnitudes(wave, mel_tables(wave.device).window)
    return {
        "log": functional.l1_loss(log_made, true.log()),
        "magnitude": (log_made.exp() - true).abs().sum() / true.sum(),
    }

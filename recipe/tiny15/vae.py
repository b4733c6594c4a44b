"""The Oobleck VAE: waves to latents and back, with latents of about zero mean and unit variance per channel.

B clips, C latent channels (64), T latent frames, N samples at 48000 Hz.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckResidualUnit
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.audio.wave import resample
from common.bases import ACE_STEP_1, ACE_STEP_15
from common.config import Config
from models.acestep15.codec import OobleckCodec, OobleckConfig
from models.acestep15.sizes import TINY_VAE
from models.loading.weights import network_config
from recipe.convolutions import lay_channels_last
from recipe.corpus import Corpus, draw_wave
from recipe.tiny15.lapped import begin_lapped
from train.fitting import Draws, Trained, TrainingSettings, fit

LATENTS = ACE_STEP_15.latents
LEVEL_BATCHES = 16
"""Batches that tell how loud latents are to begin with."""
CORPUS_RATE_HZ = ACE_STEP_1.latents.sample_rate_hz


class VaeSettings(Config):
    training: TrainingSettings = TrainingSettings(steps=1000, batch=4, learning_rate=1e-3)
    frames: Annotated[int, Field(ge=1)] = 16
    """Latent frames of a crop."""
    shares: tuple[float, float, float] = (0.25, 0.375, 0.375)
    """How often a vocal, an accompaniment and a mix are drawn."""
    gain_db: tuple[float, float] = (-8.0, 2.0)
    """Crops are made softer or louder by this."""
    latent_noise: Annotated[float, Field(gt=0)] = 0.1
    """Deviation of the noise on latents that the decoder must bear, and the one that the encoder tells of all."""
    divergence_weight: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the divergence of latents and their noise from the normal distribution, per number."""
    wave_weight: Annotated[float, Field(ge=0)] = 8.0
    """Weight of the mean absolute difference of waves."""
    windows: tuple[int, ...] = (4096, 1024, 256)
    """Samples under the windows of the spectra that are compared, each half of itself after the one before."""
    quietest: Annotated[float, Field(gt=0)] = 1e-3
    """Added to magnitudes before their logarithm; a full sine has 1."""
    even_below_hz: Annotated[float, Field(gt=0)] = 500.0
    """Bins of a spectrum count the same up to about here and less above, all octaves alike."""


def new_vae() -> OobleckCodec:
    return OobleckCodec(network_config(OobleckConfig, TINY_VAE, "vae"), encoder=True, decoder=True)


def train_vae(folder: Path, vae: OobleckCodec, corpus: Corpus, settings: VaeSettings, *, seed: int) -> Trained:
    """Train both halves, of which the encoder tells the deviation `latent_noise` everywhere."""
    begin_lapped(vae)
    lay_channels_last(vae)
    _leave_out_full_rate(vae)
    rng = np.random.default_rng(seed)
    as_it_is = settings.model_copy(update={"gain_db": (0.0, 0.0)})
    heard = torch.cat([_waves(corpus, as_it_is, rng) for _ in range(LEVEL_BATCHES)])
    _level(vae, heard)

    def losses(draws: Draws) -> dict[str, Tensor]:
        waves = _waves(corpus, settings, draws.numpy)
        latents = encode(vae, waves)
        noise = torch.randn(latents.shape, generator=draws.torch)
        decoded = decode(vae, latents + settings.latent_noise * noise)
        return {
            "wave": settings.wave_weight * functional.l1_loss(decoded, waves),
            "spectra": spectral_distance(decoded, waves, settings),
            "divergence": settings.divergence_weight * latents.square().mean() / 2,
        }

    trained = fit(folder, vae, losses, settings.training, about=settings, seed=seed)
    _level(vae, heard)
    _tell_deviation(vae, settings.latent_noise)
    return trained


def _waves(corpus: Corpus, settings: VaeSettings, rng: np.random.Generator) -> Tensor:
    """Crops of vocals, accompaniments and mixes, at drawn levels. [B, 2, N]"""
    samples = settings.frames * LATENTS.frame_samples
    held = -(-samples * CORPUS_RATE_HZ // LATENTS.sample_rate_hz)
    drawn = (
        draw_wave(corpus, held, shares=settings.shares, gain_db=settings.gain_db, rng=rng)
        for _ in range(settings.training.batch)
    )
    return torch.from_numpy(np.stack([at_latents_rate(wave)[:, :samples] for wave in drawn]))


def at_latents_rate(wave: np.ndarray) -> np.ndarray:
    """A wave of the corpus at 48000 Hz."""
    return resample(wave, CORPUS_RATE_HZ, LATENTS.sample_rate_hz)


def encode(vae: OobleckCodec, waves: Tensor) -> Tensor:
    """Mode of the encoder's distribution. [B, 2, N] -> [B, C, T]"""
    assert vae.encoder is not None
    return vae.encoder(waves)[:, : LATENTS.channels]


def decode(vae: OobleckCodec, latents: Tensor) -> Tensor:
    """[B, C, T] -> [B, 2, N]"""
    assert vae.decoder is not None
    return vae.decoder(latents)


def spectral_distance(made: Tensor, true: Tensor, settings: VaeSettings) -> Tensor:
    """Mean absolute difference of log-magnitudes over windows of several lengths. made, true [B, 2, N]"""
    return torch.stack([_distance(made, true, window, settings) for window in settings.windows]).mean()


def _distance(made: Tensor, true: Tensor, window: int, settings: VaeSettings) -> Tensor:
    hann = torch.hann_window(window)

    def magnitudes(waves: Tensor) -> Tensor:
        spectra = torch.stft(waves.flatten(0, 1), window, window // 2, window=hann, return_complex=True)
        power = torch.view_as_real(spectra).square().sum(-1) + 1e-9
        return power.sqrt() * (2 / hann.sum())

    frequencies = torch.arange(window // 2 + 1) * (LATENTS.sample_rate_hz / window)
    weights = 1 / (1 + frequencies / settings.even_below_hz)
    ours, theirs = ((magnitudes(waves) + settings.quietest).log() for waves in (made, true))
    return ((ours - theirs).abs() * (weights / weights.mean())[:, None]).mean()


@torch.no_grad()
def _leave_out_full_rate(vae: OobleckCodec) -> None:
    """Let the residual units at 48000 Hz add nothing and learn nothing: two channels wide, they would take most of the
    time.
    """
    assert vae.encoder is not None
    assert vae.decoder is not None
    for block in (vae.encoder.block[0], vae.decoder.block[-1]):
        for unit in block.children():
            if isinstance(unit, OobleckResidualUnit):
                unit.requires_grad_(False)
                for name in ("conv2.weight_g", "conv2.bias"):
                    unit.get_parameter(name).zero_()
                unit.forward = nn.Identity()


@torch.no_grad()
def _level(vae: OobleckCodec, waves: Tensor) -> None:
    """Let each latent channel have a mean square of 1: its scale moves from the encoder to the decoder."""
    deviations = encode(vae, waves).square().mean((0, 2)).sqrt()
    for name in ("encoder.conv2.weight_g", "encoder.conv2.bias"):
        scaled = vae.get_parameter(name)[: LATENTS.channels]
        scaled /= deviations.reshape(-1, *(1,) * (scaled.ndim - 1))
    length, direction = (vae.get_parameter(f"decoder.conv1.weight_{part}") for part in "gv")
    turned = direction * deviations[:, None]
    length *= turned.flatten(1).norm(dim=1)[:, None, None] / direction.flatten(1).norm(dim=1)[:, None, None]
    direction.copy_(turned)


@torch.no_grad()
def _tell_deviation(vae: OobleckCodec, deviation: float) -> None:
    """Let the second half of what the encoder gives be this deviation, as diffusers' class reads it."""
    vae.get_parameter("encoder.conv2.weight_g")[LATENTS.channels :] = 0.0
    vae.get_parameter("encoder.conv2.bias")[LATENTS.channels :] = float(np.log(np.expm1(deviation)))

"""A few validation songs, now and then, as audio and mel images in TensorBoard. The one time training opens a decoder.

C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from common.errors import UserError
from models.flow.sampler import sample
from models.loading.checkpoint import open_decoder, resolve_checkpoint, spec_of
from models.protocols import LatentDecoder
from shards.manifest import Manifest
from train.config import TrainingConfig
from train.data.clips import Batch
from train.loop.callbacks import StepCallback, announce
from train.loop.card import trained_sampler
from train.loop.module import AccompanimentModule, encode
from train.loop.preparation import check_shards

SONGS = 2
"""Validation songs that are rendered."""


def make_rendering(
    config: TrainingConfig, clips: Sequence[Batch], checkpoint_dir: str, manifest: Manifest
) -> "RenderCallback | None":
    """What renders the first of `clips`, or None where there are none or no decoder; then it is said why.

    Raises UserError for a codec that did not make the shards.
    """
    spec = spec_of(checkpoint_dir)
    parts = spec.parts.decoders
    try:
        base = resolve_checkpoint(checkpoint_dir, parts)
    except UserError as error:
        announce(f"render_every_n_steps: nothing will be rendered. {error}")
        return None
    check_shards(config, manifest, checkpoint_dir, base, parts)
    if not clips:
        announce("render_every_n_steps: nothing will be rendered, there are no songs to validate on.")
        return None
    return RenderCallback(config.render_every_n_steps, clips[:SONGS], base)


class RenderCallback(StepCallback):
    """Draws accompaniments as inference would and decodes them, and leaves the generators of training alone."""

    def __init__(self, every: int, clips: Sequence[Batch], base: Path) -> None:
        self._every, self._clips, self._base = every, clips, base
        self._begun = False

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        if self._step % self._every == 0:
            with module.inference_state():
                made = [sample_latents(module, clip) for clip in self._clips]
            if trainer.is_global_zero:
                assert isinstance(trainer.logger, TensorBoardLogger)
                self._show(trainer.logger, made, module.device)

    def _show(self, logger: TensorBoardLogger, made: Sequence[Tensor], device: torch.device) -> None:
        decoder = open_decoder(self._base, device)
        for clip, latents in zip(self._clips, made, strict=True):
            (key,) = clip.keys
            show(decoder, logger, f"{key}/made", latents, self._step)
            if not self._begun:
                show(decoder, logger, f"{key}/true", clip.target[0], self._step)
        self._begun = True


def show(decoder: LatentDecoder, logger: TensorBoardLogger, name: str, latents: Tensor, step: int) -> None:
    """Latents [C, H, T] as sound (mono) and as a picture of their mel bands, low ones at the bottom."""
    wave, picture = decoder.rendering(latents)
    logger.experiment.add_audio(name, wave.clamp(-1, 1), step, sample_rate=decoder.layout.sample_rate_hz)
    logger.experiment.add_image(name, picture, step, dataformats="HW")


@torch.no_grad()
def sample_latents(module: AccompanimentModule, clip: Batch) -> Tensor:
    """Latents [C, H, T] of the band that the model makes for one clip, from the clip's own noise."""
    clip = clip.to(module.device)
    without = {name: torch.zeros_like(getattr(clip, name)) for name in ("text", "lyric_ids", "lyric_mask")}
    (latents,) = sample(
        module.transformer,
        encode(module.transformer, clip),
        encode(module.transformer, replace(clip, **without)),
        clip.noise,
        trained_sampler(module.config, module.transformer.spec, module.transformer.variant_name),
        objective=module.objective,
        source=clip.source,
        conditioner=module.conditioner,
    )
    return latents

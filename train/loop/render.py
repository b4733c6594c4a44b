"""A few validation songs, now and then, as audio and mel images in TensorBoard. The one time training opens a decoder.

C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from common.errors import UserError
from models.flow.sampler import SamplerSettings, sample
from models.loading.checkpoint import open_codec, open_vocoder, resolve_checkpoint, spec_of
from shards.schema import Manifest
from train.config import TrainingConfig
from train.data.clips import Batch
from train.loop.callbacks import StepCallback, announce
from train.loop.module import AccompanimentModule, encode
from train.loop.preparation import check_shards

if TYPE_CHECKING:
    from models.acestep1.codec.codec import Codec
    from models.acestep1.codec.vocoder import Vocoder

SONGS = 2
"""Validation songs that are rendered."""


def make_rendering(
    config: TrainingConfig, clips: Sequence[Batch], checkpoint_dir: str, manifest: Manifest
) -> "RenderCallback | None":
    """What renders the first of `clips`, or None where there are none or no decoder; then it is said why.

    Raises UserError for a codec that did not make the shards.
    """
    spec = spec_of(checkpoint_dir)
    parts = [spec.parts.codec, spec.parts.vocoder]
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
        decoder = PartDecoder.open(self._base, device)
        for clip, latents in zip(self._clips, made, strict=True):
            (key,) = clip.keys
            decoder.show(logger, f"{key}/made", latents, self._step)
            if not self._begun:
                decoder.show(logger, f"{key}/true", clip.target[0], self._step)
        self._begun = True


@dataclass(frozen=True)
class PartDecoder:
    """The way from latents to sound, for as long as one rendering takes."""

    codec: "Codec"
    vocoder: "Vocoder"
    device: torch.device

    @classmethod
    def open(cls, base: Path, device: torch.device) -> "PartDecoder":
        codec = open_codec(base, encoder=False, decoder=True)
        return cls(codec.to(device), open_vocoder(base).to(device), device)

    @torch.no_grad()
    def show(self, logger: TensorBoardLogger, name: str, latents: Tensor, step: int) -> None:
        """Latents [C, H, T] as sound (mono) and as a picture of their mel bands, low ones at the bottom."""
        from models.acestep1.codec.codec import (
            MEL_HIGH,
            MEL_LOW,
            WINDOW_FRAMES,
            decode_mel_in_windows,
            vocode_in_blocks,
        )

        latents = latents.to(self.device)
        if latents.shape[-1] <= WINDOW_FRAMES:
            mel = self.codec.decode_mel(latents)
            wave = torch.cat([self.vocoder(channel[None])[0] for channel in mel])
        else:
            mel = decode_mel_in_windows(self.codec, latents)
            wave = vocode_in_blocks(self.vocoder, mel)
        wave = wave.mean(dim=0).clamp(-1, 1)
        logger.experiment.add_audio(name, wave.cpu(), step, sample_rate=self.codec.layout.sample_rate_hz)
        picture = ((mel.mean(dim=0) - MEL_LOW) / (MEL_HIGH - MEL_LOW)).clamp(0, 1).flip(0)
        logger.experiment.add_image(name, picture.cpu(), step, dataformats="HW")


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
        SamplerSettings(shift=module.config.shift),
        objective=module.objective,
        source=clip.source,
        conditioner=module.conditioner,
    )
    return latents

"""From a cached sample to what a training step sees: a random cut, one of the tag orders, dropped conditions, noise.

Every draw depends on (seed, epoch, sample) alone, never on the batch a clip lands in.

B clips, C latent channels (8), H latent rows (16), T latent frames, S text tokens, D their width, L lyric tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.latents import LatentStatistics
from models.adapter import Conditioning
from models.conditioning import VocalSource, hear
from models.schedule import draw_timesteps
from shards.schema import Sample
from train.config import TrainingConfig
from train.plan import clip_frames, seeded


@dataclass(frozen=True)
class Batch:
    """Clips of one length with everything random already drawn."""

    keys: tuple[str, ...]
    target: Tensor  # [B, C, H, T], x0
    source: VocalSource
    text: Tensor  # [B, S, D], zeros where the prompt is dropped
    text_mask: Tensor  # [B, S] bool; a dropped prompt keeps it
    lyric_ids: Tensor  # [B, L] int64
    lyric_mask: Tensor  # [B, L] bool, zeros where the lyrics are dropped
    noise: Tensor  # [B, C, H, T], eps
    timestep: Tensor  # [B], 1000 * sigma
    weight: Tensor  # [B], 0 for a clip that only fills up the last round of an epoch
    features: tuple[tuple[Tensor, ...], ...]  # per SSL network, per clip [frames, width]; empty without features

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return _moved(self, device)


@dataclass(frozen=True)
class ClipMaker:
    """Cuts clips the way one training run wants them."""

    config: TrainingConfig
    conditioning: Conditioning
    statistics: LatentStatistics

    def batch(self, samples: Sequence[Sample], *, epoch: int, weight: float = 1.0) -> Batch:
        """The batch that `samples`, all of one clip length, make in this epoch."""
        return joined([self.clip(sample, epoch=epoch, weight=weight) for sample in samples])

    def clip(self, sample: Sample, *, epoch: int, weight: float = 1.0) -> Batch:
        """A batch of one clip."""
        config = self.config
        generator = seeded(config.seed, epoch, sample.meta.key, "choices")
        at, order, keep_text, keep_lyrics, keep_vocal, at_strength = torch.rand(6, generator=generator).tolist()
        low, high = config.accompaniment.strengths
        strength = low + (high - low) * at_strength if keep_vocal >= config.accompaniment.vocal_dropout else 0.0
        frames = clip_frames(sample.meta.frames, config.crop_frames)
        cut = Cut(
            start=int(at * (sample.meta.frames - frames + 1)), frames=frames, tag_order=int(order * len(sample.text))
        )
        clip = self.fixed_clip(sample, cut, strength=strength)

        noises = seeded(config.seed, epoch, sample.meta.key, "noise")
        noise = torch.randn(clip.target.shape, generator=noises)
        heard = hear(clip.source.vocal, latent_noise=config.accompaniment.latent_noise, generator=noises)
        return replace(
            clip,
            source=replace(clip.source, heard=heard),
            text=clip.text * (keep_text >= config.text_dropout),
            lyric_ids=clip.lyric_ids * (keep_lyrics >= config.lyric_dropout),
            lyric_mask=clip.lyric_mask & (keep_lyrics >= config.lyric_dropout),
            noise=noise,
            timestep=draw_timesteps(1, shift=config.shift, generator=generator),
            weight=torch.tensor([weight]),
        )

    def fixed_clip(self, sample: Sample, cut: "Cut", *, strength: float) -> Batch:
        """A batch of one clip as it stands: all conditions, the vocal heard as it is, no noise and timestep 0 yet."""
        frames = slice(cut.start, cut.start + cut.frames)
        target = _float(self._target(sample)[:, :, frames])[None]
        source = self.conditioning.hear(
            _float(sample.vocal[:, :, frames])[None],
            _float(sample.activity[frames])[None],
            torch.tensor([strength]),
            self.statistics,
        )
        real = sample.text_mask[cut.tag_order]
        text = sample.text[cut.tag_order][: int(real.sum())]
        lyric_ids = torch.tensor(sample.lyrics, dtype=torch.int64)[None]
        return Batch(
            keys=(sample.meta.key,),
            target=target,
            source=source,
            text=_float(text)[None],
            text_mask=torch.ones(1, len(text), dtype=torch.bool),
            lyric_ids=lyric_ids,
            lyric_mask=torch.ones_like(lyric_ids, dtype=torch.bool),
            noise=torch.zeros_like(target),
            timestep=torch.zeros(1),
            weight=torch.ones(1),
            features=self._features(sample, cut),
        )

    def _target(self, sample: Sample) -> np.ndarray:
        target = sample.inst if self.config.accompaniment.output_type == "accompaniment" else sample.mix
        assert target is not None, "the manifest promised this target"
        return target

    def _features(self, sample: Sample, cut: "Cut") -> tuple[tuple[Tensor, ...], ...]:
        """SSL features of the target under the cut: of n for T frames, indices round(frame * n / T)."""
        if self.config.ssl_coeff == 0:
            return ()
        inst = self.config.accompaniment.output_type == "accompaniment"
        mert, mhubert = (sample.inst_mert, sample.inst_mhubert) if inst else (sample.mix_mert, sample.mix_mhubert)
        if mert is None or mhubert is None:
            return ()
        ends = (cut.start, cut.start + cut.frames)
        return tuple((_float(_between(found, ends, sample.meta.frames)),) for found in (mert, mhubert))


@dataclass(frozen=True)
class Cut:
    """Which part of a sample, and which of its tag orders."""

    start: int  # first latent frame
    frames: int
    tag_order: int


def joined(clips: Sequence[Batch]) -> Batch:
    """One batch of all `clips`, which have one length; texts and lyrics are padded at their ends."""
    return Batch(
        keys=tuple(key for clip in clips for key in clip.keys),
        target=torch.cat([clip.target for clip in clips]),
        source=VocalSource(
            vocal=torch.cat([clip.source.vocal for clip in clips]),
            heard=torch.cat([clip.source.heard for clip in clips]),
            activity=torch.cat([clip.source.activity for clip in clips]),
            strength=torch.cat([clip.source.strength for clip in clips]),
        ),
        text=_padded([clip.text for clip in clips]),
        text_mask=_padded([clip.text_mask for clip in clips]),
        lyric_ids=_padded([clip.lyric_ids for clip in clips]),
        lyric_mask=_padded([clip.lyric_mask for clip in clips]),
        noise=torch.cat([clip.noise for clip in clips]),
        timestep=torch.cat([clip.timestep for clip in clips]),
        weight=torch.cat([clip.weight for clip in clips]),
        features=tuple(
            tuple(item for (item,) in network) for network in zip(*(clip.features for clip in clips), strict=True)
        ),
    )


def _float(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


def _between(features: np.ndarray, ends: tuple[int, int], frames: int) -> np.ndarray:
    first, last = (round(end * len(features) / frames) for end in ends)
    return features[first:last]


def _padded(items: Sequence[Tensor]) -> Tensor:
    """[1, n, ...] each -> [B, longest n, ...]."""
    return pad_sequence([row for item in items for row in item], batch_first=True)


def _moved(value: Any, device: torch.device) -> Any:
    """A copy of a nest of tuples and dataclasses with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value

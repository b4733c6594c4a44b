"""Does the model follow the vocal (conditioning_gain), and is it better than the base without a vocal (x0_gain)?

N validation songs, U noise levels. Everything is fixed: clips, noise, levels, which vocals are exchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from models.adapters.adapter import Conditioning
from models.adapters.lora import set_lora_dropout
from models.flow.conditioning import TEXT2MUSIC, VocalSource
from models.flow.options import BRIDGES
from models.flow.schedule import TIMESTEPS
from shards.schema import Sample
from train.data.clips import Batch, Choice, ClipMaker, Cut
from train.data.plan import clip_frames, seeded
from train.loop.losses import denoising_loss
from train.loop.module import AccompanimentModule, encode, estimate

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Effective noise: noise over noise plus data in the state, whatever the vocal's share in x1."""
RESAMPLES = 1000
"""Bootstrap draws behind a 95 % interval."""


@dataclass(frozen=True)
class GainInterval:
    """1 - loss / other loss, with its 95 % interval over songs."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    """One validation."""

    loss: float
    x0_gain: GainInterval
    conditioning_gain: GainInterval
    x0_gain_at: tuple[float, ...]  # by level
    conditioning_gain_at: tuple[float, ...]

    def named(self) -> dict[str, float]:
        """Figures under the names that TensorBoard and adapter.json show."""
        named = {"val/loss": self.loss}
        for name in ("x0_gain", "conditioning_gain"):
            gain: GainInterval = getattr(self, name)
            named |= {f"val/{name}": gain.value, f"val/{name}_low": gain.low, f"val/{name}_high": gain.high}
            by_level = zip(LEVELS, getattr(self, f"{name}_at"), strict=True)
            named |= {f"val/{name}_at_{level:g}": value for level, value in by_level}
        return named


class Validation:
    """Validation of a model on fixed clips, noise, levels and exchanges of vocals."""

    def __init__(
        self, samples: Mapping[str, Sample], maker: ClipMaker, *, reuse_base_of: "Validation | None" = None
    ) -> None:
        """`samples`: one per song, by song; at least two. `reuse_base_of` was of the same base and clips."""
        seed = maker.config.seed
        strength = maker.config.accompaniment.reference_strength
        self.clips = [_clip(sample, maker, strength) for _, sample in sorted(samples.items())]
        self.partners = derangement(len(self.clips), seeded(seed, "derangement"))
        self.levels = noise_levels(maker.conditioning, strength)
        self.resampling_seed = seed
        self._base: Tensor | None = reuse_base_of._base if reuse_base_of else None

    @torch.no_grad()
    def __call__(self, module: AccompanimentModule) -> Figures:
        """Evaluate a model; its training state and every global random state stay as they were."""
        set_lora_dropout(module.transformer, active=False)
        try:
            if self._base is None:
                self._base = self._base_losses(module)
            mine = self._losses(module, [clip.source for clip in self.clips])
            exchanged = [
                fitted(self.clips[other].source, clip) for clip, other in zip(self.clips, self.partners, strict=True)
            ]
            theirs = self._losses(module, exchanged)
        finally:
            set_lora_dropout(module.transformer, active=True)
        return Figures(
            loss=mine.mean().item(),
            x0_gain=gain(mine, self._base, self.resampling_seed),
            conditioning_gain=gain(mine, theirs, self.resampling_seed),
            x0_gain_at=_by_level(mine, self._base),
            conditioning_gain_at=_by_level(mine, theirs),
        )

    def _losses(self, module: AccompanimentModule, sources: Sequence[VocalSource]) -> Tensor:
        """Loss of each song at each level, [N, U] float64, conditioned on `sources`."""
        losses = []
        for clip, source in zip(self.clips, sources, strict=True):
            noised = at_levels(replace(clip, source=source), self.levels).to(module.device)
            conditions = encode(module.transformer, noised)
            made = estimate(
                module.transformer, noised, conditions, objective=module.objective, conditioner=module.conditioner
            )
            losses.append(_loss(made.clean, noised))
        return torch.stack(losses)

    def _base_losses(self, module: AccompanimentModule) -> Tensor:
        """The same of the frozen base: no adapter, no vocal, plain noise."""
        module.transformer.disable_adapters()
        try:
            losses = []
            for clip in self.clips:
                noised = at_levels(clip, torch.tensor(LEVELS)).to(module.device)
                conditions = encode(module.transformer, noised)
                made = estimate(module.transformer, noised, conditions, objective=TEXT2MUSIC, conditioner=None)
                losses.append(_loss(made.clean, noised))
            return torch.stack(losses)
        finally:
            module.transformer.enable_adapters()


def noise_levels(conditioning: Conditioning, strength: float) -> Tensor:
    """The sigmas at which a model's state holds LEVELS of noise, [U].

    s*b of noise against (1-s) of data is u against 1-u for s = u / (u + b*(1-u)), where b is the share of noise in x1.
    """
    share = strength * conditioning.a_max if conditioning.objective in BRIDGES else 0.0
    b = 1 - share if conditioning.objective == "bridge_lerp" else (1 - share**2) ** 0.5
    u = torch.tensor(LEVELS)
    return u / (u + b * (1 - u))


def derangement(count: int, generator: torch.Generator) -> list[int]:
    """For each of `count` songs another one; every song is taken once."""
    circle = torch.randperm(count, generator=generator).tolist()
    follower = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return [follower[song] for song in range(count)]


def fitted(source: VocalSource, clip: Batch) -> VocalSource:
    """`source`, tiled and cut to the length of `clip`."""
    frames = clip.target.shape[-1]
    tiles = -(-frames // source.activity.shape[-1])

    def tiled(value: Tensor) -> Tensor:
        return value.repeat(*[1] * (value.ndim - 1), tiles)[..., :frames]

    return replace(
        source,
        vocal=tiled(source.vocal),
        conditioner_input=tiled(source.conditioner_input),
        activity=tiled(source.activity),
    )


def at_levels(clip: Batch, sigmas: Tensor) -> Batch:
    """One clip as a batch with an item per sigma."""

    def repeated(value: Tensor) -> Tensor:
        return value.expand(len(sigmas), *value.shape[1:])

    tensors = {
        f.name: repeated(getattr(clip, f.name)) for f in fields(clip) if isinstance(getattr(clip, f.name), Tensor)
    }
    source = clip.source
    each_level = VocalSource(
        *(repeated(part) for part in (source.vocal, source.conditioner_input, source.activity, source.strength))
    )
    return replace(clip, **tensors | {"source": each_level, "timestep": sigmas * TIMESTEPS})


def gain(losses: Tensor, others: Tensor, seed: int) -> GainInterval:
    """1 - mean loss / mean other loss of [N, U] losses, resampled over songs."""
    mine, theirs = losses.mean(dim=1), others.mean(dim=1)
    draws = torch.randint(len(mine), (RESAMPLES, len(mine)), generator=seeded(seed, "bootstrap"))
    resampled = 1 - mine[draws].mean(dim=1) / theirs[draws].mean(dim=1)
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    return GainInterval((1 - mine.mean() / theirs.mean()).item(), low, high)


def _clip(sample: Sample, maker: ClipMaker, strength: float) -> Batch:
    """The middle of a song with all its conditions and noise of its own; validation needs no features."""
    frames = clip_frames(sample.meta.frames, maker.crop_frames)
    cut = Cut(start=(sample.meta.frames - frames) // 2, frames=frames, tag_order=0)
    clip = maker.without_noise(maker.assemble([sample], [Choice(cut, strength)]))
    generator = seeded(maker.config.seed, "validation", sample.meta.key)
    return replace(clip, noise=torch.randn(clip.target.shape, generator=generator), features=())


def _loss(clean: Tensor, batch: Batch) -> Tensor:
    return denoising_loss(clean, batch.target, torch.ones_like(batch.source.activity)).cpu().double()


def _by_level(losses: Tensor, others: Tensor) -> tuple[float, ...]:
    return tuple((1 - losses.mean(dim=0) / others.mean(dim=0)).tolist())

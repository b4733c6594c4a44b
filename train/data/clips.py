"""From a cached sample to what a training step sees: a random cut, one of the tag orders, dropped conditions, noise.

In two steps. The loader cuts clips and leaves them as the shards hold them; what is larger, floats and noise, is made
where they are used. Every draw depends on (seed, epoch, sample) alone, never on the batch a clip lands in.

B clips, C latent channels (8), H latent rows (16), T latent frames, S text tokens, D their width, L lyric tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from common.bases import BaseSpec, NoiseLevels
from common.latents import LatentLayout, LatentStatistics
from common.music.features import WIDTH, lead_sheet_features
from models.acestep1.text.lyric_tokens import encode_lyrics, reduce_lyrics
from models.adapters.conditioning import Conditioning
from models.flow.conditioning import VocalSource, add_latent_noise, vocal_latents
from models.flow.schedule import ON_THE_GRID, draw_high_timesteps, draw_timesteps
from shards.schema import SSL_WIDTHS, Sample, Target
from train.config import TrainingConfig
from train.data.plan import clip_frames, seed_of

Features = tuple[tuple[Tensor | None, ...] | None, ...]
"""Per SSL network, per clip float16 [frames, width]; None for what the shards do not hold, empty without any."""


@dataclass(frozen=True)
class Cut:
    """Which part of a sample, and which of its tag orders."""

    start: int  # first latent frame
    frames: int
    tag_order: int


@dataclass(frozen=True)
class Choice:
    """What was drawn for a clip."""

    cut: Cut
    strength: float
    keep_text: bool = True
    keep_lyrics: bool = True
    keep_lead_sheet: bool = True
    timestep: float = 0.0
    noise_seed: int = 0


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one length as the shards hold them, with everything chosen but no noise yet."""

    keys: tuple[str, ...]
    target: Tensor  # [B, C, H, T] float16
    vocal: Tensor  # [B, C, H, T] float16, scaled latents
    activity: Tensor  # [B, T] float16
    strength: Tensor  # [B]
    text: Tensor  # [B, S, D] float16, zeros where the prompt is dropped
    text_mask: Tensor  # [B, S] bool; a dropped prompt keeps it
    lyric_ids: Tensor  # [B, L] int64, or rows [B, L, D] float16
    lyric_mask: Tensor  # [B, L] bool, zeros where the lyrics are dropped
    timestep: Tensor  # [B], 1000 * sigma
    weight: Tensor  # [B], 0 for a clip that only fills up the last round of an epoch
    features: Features
    noise_seeds: tuple[int, ...]
    lead_sheet: Tensor | None = None  # [B, T, S]; None where the run trains without
    lead_sheet_strength: Tensor | None = None  # [B], 0 where it is dropped or there is none

    def to(self, device: torch.device) -> Self:
        """The same clips on another device."""
        return _moved(self, device)


@dataclass(frozen=True)
class Batch:
    """Clips of one length as a training step sees them: floats, the vocal normalised, noise drawn."""

    keys: tuple[str, ...]
    target: Tensor  # [B, C, H, T], x0
    source: VocalSource
    text: Tensor  # [B, S, D], zeros where the prompt is dropped
    text_mask: Tensor  # [B, S] bool; a dropped prompt keeps it
    lyric_ids: Tensor  # [B, L] int64, or rows [B, L, D]
    lyric_mask: Tensor  # [B, L] bool, zeros where the lyrics are dropped
    noise: Tensor  # [B, C, H, T], eps
    timestep: Tensor  # [B], 1000 * sigma
    weight: Tensor  # [B], 0 for a clip that only fills up the last round of an epoch
    features: Features

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        return _moved(self, device)


@dataclass(frozen=True)
class ClipMaker:
    """Cuts clips the way one training run wants them."""

    config: TrainingConfig
    conditioning: Conditioning
    statistics: LatentStatistics
    spec: BaseSpec
    levels: NoiseLevels = ON_THE_GRID

    @property
    def latents(self) -> LatentLayout:
        """Layout of the base model's latents."""
        return self.spec.latents

    @property
    def crop_frames(self) -> int:
        """Longest clip in latent frames."""
        return self.config.crop_frames(self.latents)

    def batch(self, samples: Sequence[Sample], *, epoch: int) -> Batch:
        """The batch that `samples`, all of one clip length, make in this epoch."""
        return self.with_noise(self.cut(samples, epoch=epoch))

    def cut(self, samples: Sequence[Sample], *, epoch: int, weight: float = 1.0) -> ClipBatch:
        """The clips that `samples`, all of one clip length, give in this epoch."""
        return self.assemble(samples, [self._choose(sample, epoch) for sample in samples], weight=weight)

    def with_noise(self, clips: ClipBatch) -> Batch:
        """The batch of `clips` with eps and the vocal's latent noise drawn, on their device."""
        batch = self.without_noise(clips)
        noisy_vocal = torch.empty_like(batch.source.vocal)
        for row, seed in enumerate(clips.noise_seeds):
            generator = torch.Generator(batch.noise.device).manual_seed(seed)
            torch.randn(batch.noise.shape[1:], generator=generator, out=batch.noise[row])
            vocal, latent_noise = batch.source.vocal[row], self.config.accompaniment.latent_noise
            noisy_vocal[row] = add_latent_noise(vocal, latent_noise=latent_noise, generator=generator)
        source = replace(batch.source, conditioner_input=noisy_vocal)
        if source.latents is not None:
            source = replace(source, latents=vocal_latents(noisy_vocal, self.statistics))
        return replace(batch, source=source)

    def without_noise(self, clips: ClipBatch) -> Batch:
        """The same without noise: eps is 0, and none is added to the vocal."""
        source = self.conditioning.vocal_source(
            clips.vocal.float(),
            clips.activity.float(),
            clips.strength,
            self.statistics,
            lead_sheet=clips.lead_sheet,
            lead_sheet_strength=clips.lead_sheet_strength,
        )
        return Batch(
            keys=clips.keys,
            target=clips.target.float(),
            source=source,
            text=clips.text.float(),
            text_mask=clips.text_mask,
            lyric_ids=clips.lyric_ids.float() if clips.lyric_ids.is_floating_point() else clips.lyric_ids,
            lyric_mask=clips.lyric_mask,
            noise=torch.zeros_like(source.vocal),
            timestep=clips.timestep,
            weight=clips.weight,
            features=clips.features,
        )

    def assemble(self, samples: Sequence[Sample], choices: Sequence[Choice], *, weight: float = 1.0) -> ClipBatch:
        """Clips of `samples` as `choices` say, all of one length; texts and lyrics are padded at their ends."""
        pairs = list(zip(samples, choices, strict=True))
        cuts = [(slice(one.cut.start, one.cut.start + one.cut.frames), sample) for sample, one in pairs]
        texts = [sample.text[one.cut.tag_order][sample.text_mask[one.cut.tag_order]] for sample, one in pairs]
        text_mask = _ends([len(text) for text in texts])
        lyrics = [self._lyrics(sample) for sample in samples]
        lyric_mask = _ends([len(ids) for ids in lyrics])
        sheets = self._lead_sheets(samples, choices)
        return ClipBatch(
            keys=tuple(sample.meta.key for sample in samples),
            target=_stacked([self._target(sample)[:, :, frames] for frames, sample in cuts]),
            vocal=_stacked([sample.vocal[:, :, frames] for frames, sample in cuts]),
            activity=_stacked([sample.activity[frames] for frames, sample in cuts]),
            strength=torch.tensor([one.strength for one in choices]),
            text=_padded(texts, [one.keep_text for one in choices]),
            text_mask=torch.from_numpy(text_mask),
            lyric_ids=_whole(_padded(lyrics, [one.keep_lyrics for one in choices])),
            lyric_mask=torch.from_numpy(lyric_mask & np.array([[one.keep_lyrics] for one in choices])),
            timestep=torch.tensor([one.timestep for one in choices]),
            weight=torch.full((len(samples),), weight),
            features=self._features(samples, [one.cut for one in choices]) if weight else (),
            noise_seeds=tuple(one.noise_seed for one in choices),
            lead_sheet=sheets,
            lead_sheet_strength=None if sheets is None else self._sheet_strengths(samples, choices),
        )

    def _choose(self, sample: Sample, epoch: int) -> Choice:
        config = self.config
        generator = torch.Generator().manual_seed(seed_of(config.seed, epoch, sample.meta.key, "choices"))
        at, at_tag_order, keep_text, keep_lyrics, keep_vocal, at_strength = torch.rand(6, generator=generator).tolist()
        low, high = config.accompaniment.strengths
        frames = clip_frames(sample.meta.frames, self.crop_frames)
        timestep = draw_timesteps(1, shift=config.shift, generator=generator, levels=self.levels)
        at_level, keep_any = torch.rand(2, generator=generator).tolist()
        if at_level < config.noise_share:
            timestep = draw_high_timesteps(1, shift=config.shift, generator=generator, levels=self.levels)
        keep = keep_any >= config.joint_dropout
        keep_lead_sheet = torch.rand(1, generator=generator).item()  # drawn last: the rest is as without lead sheets
        sheet = config.accompaniment.lead_sheet
        with_text, with_lyrics = keep and keep_text >= config.text_dropout, keep and keep_lyrics >= config.lyric_dropout
        return Choice(
            Cut(int(at * (sample.meta.frames - frames + 1)), frames, tag_order=int(at_tag_order * len(sample.text))),
            strength=low + (high - low) * at_strength
            if keep and keep_vocal >= config.accompaniment.vocal_dropout
            else 0.0,
            keep_text=with_text,
            keep_lyrics=with_text if self.spec.has_learned_null else with_lyrics,
            keep_lead_sheet=keep and sheet is not None and keep_lead_sheet >= sheet.dropout,
            timestep=timestep.item(),
            noise_seed=seed_of(config.seed, epoch, sample.meta.key, "noise"),
        )

    def _lyrics(self, sample: Sample) -> np.ndarray:
        """Tokens of what of a sample's lyrics the run trains with, [L] or [L, D]; ids without words need no
        vocabulary."""
        content = self.config.accompaniment.lyrics
        if content == "words":
            return sample.lyrics
        if self.spec.has_lyric_rows:
            return sample.reduced_lyrics[content]
        return encode_lyrics(reduce_lyrics(sample.meta.lyrics, content), None).ids

    def _lead_sheets(self, samples: Sequence[Sample], choices: Sequence[Choice]) -> Tensor | None:
        """What lead sheets say of each frame, [B, T, S]: zeros without one; None where the run trains without."""
        if self.conditioning.lead_sheet is None:
            return None
        rate = self.latents.frames_per_second
        found = [_sheet_frames(sample, one.cut, rate) for sample, one in zip(samples, choices, strict=True)]
        return _stacked(found)

    def _sheet_strengths(self, samples: Sequence[Sample], choices: Sequence[Choice]) -> Tensor:
        pairs = zip(samples, choices, strict=True)
        return torch.tensor([float(sample.lead_sheet is not None and one.keep_lead_sheet) for sample, one in pairs])

    def _target(self, sample: Sample) -> np.ndarray:
        return sample.targets[target_of(self.config)]

    def _features(self, samples: Sequence[Sample], cuts: Sequence[Cut]) -> Features:
        """SSL features of the targets under the cuts, if the loss wants them."""
        if self.config.ssl_coeff == 0:
            return ()
        found = [
            tuple(
                None if array is None else _between(array, cut, sample.meta.frames)
                for array in features_of(sample, self.config)
            )
            for sample, cut in zip(samples, cuts, strict=True)
        ]
        networks = tuple(
            network if any(item is not None for item in network) else None for network in zip(*found, strict=True)
        )
        return networks if any(networks) else ()


def target_of(config: TrainingConfig) -> Target:
    """What a run learns to make."""
    return "inst" if config.accompaniment.output_type == "accompaniment" else "mix"


def features_of(sample: Sample, config: TrainingConfig) -> tuple[np.ndarray | None, ...]:
    """Features of the target that a run learns to make, by each SSL network."""
    return tuple(sample.features.get((target_of(config), ssl)) for ssl in SSL_WIDTHS)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _ends(lengths: Sequence[int]) -> np.ndarray:
    """True before each row's end, [B, longest]."""
    return np.arange(max(lengths)) < np.array(lengths)[:, None]


def _padded(arrays: Sequence[np.ndarray], keep: Sequence[bool]) -> Tensor:
    """[n, ...] each -> [B, longest n, ...], zeros past the ends and where an array is not to be kept."""
    padded = np.zeros((len(arrays), max(len(array) for array in arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, (array, kept) in enumerate(zip(arrays, keep, strict=True)):
        if kept:
            padded[row, : len(array)] = array
    return torch.from_numpy(padded)


def _whole(tokens: Tensor) -> Tensor:
    """Token ids as int64; rows as they are."""
    return tokens if tokens.is_floating_point() else tokens.long()


def _between(features: np.ndarray, cut: Cut, frames: int) -> Tensor:
    """Features under a cut: of n for `frames` latent frames, indices round(frame * n / frames)."""
    first, last = (round(end * len(features) / frames) for end in (cut.start, cut.start + cut.frames))
    return torch.tensor(features[first:last])


def _sheet_frames(sample: Sample, cut: Cut, frames_per_second: float) -> np.ndarray:
    """What a sample's lead sheet says of the frames under a cut, float32 [T, S]."""
    if sample.lead_sheet is None:
        return np.zeros((cut.frames, WIDTH), np.float32)
    frames = lead_sheet_features(sample.lead_sheet, cut.start + cut.frames, frames_per_second)
    return frames[cut.start :]


def _moved(value: Any, device: torch.device) -> Any:
    """A copy of a nest of tuples and dataclasses with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=device.type == "cuda")  # mps would read what has not arrived
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value

"""What the rooms ask of a base model's networks, so that another base model is a package of its own.

B items, C latent channels, H latent rows, T latent frames, N samples at the codec's rate, S text tokens, D text width,
L lyric tokens, E condition tokens, I inner width.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from common.bases import BaseSpec
from common.errors import UserError
from common.latents import LatentLayout

_NO_SLOT = "{name} has no slot for a source track. Give a checkpoint of a base model that has one."

Injections = Mapping[int, Callable[[Tensor], Tensor]]
"""Block index -> what becomes of that block's input [B, T, I], for example h -> h + residual."""

SslFeatures = Sequence[Sequence[Tensor | None] | None]
"""Per SSL network: per item the features [frames, dim] or None; None where that network's loss is not wanted."""


@dataclass(frozen=True)
class Conditions:
    """What the latents are conditioned on; depends on neither latents nor timestep, so it is made once per song."""

    states: Tensor  # [B, E, I]
    mask: Tensor  # [B, E] bool, True where a token is real
    keys_values: tuple[Any, ...] | None = None  # what each block makes of them, from `prepare`
    context: Tensor | None = None  # [B, K, H, T], what a base model with a source slot sees beside the latents

    def cut(self, frames: slice) -> "Conditions":
        """The same conditions for some of the frames."""
        return self if self.context is None else replace(self, context=self.context[..., frames])


@dataclass(frozen=True)
class Velocity:
    """The network's answer: the velocity noise - data, and the projection losses where features were given."""

    sample: Tensor  # [B, C, H, T]
    projection_losses: tuple[tuple[str, Tensor], ...]  # (SSL network's name, scalar)


class FlowNetwork(ModelMixin, PeftAdapterMixin):
    """A transformer that predicts the velocity of noisy latents."""

    spec: BaseSpec
    """Its base model."""
    transformer_blocks: nn.ModuleList
    blocks_name: str = "transformer_blocks"
    """Name of those blocks among its modules."""
    variant_name: str = "base"
    """Which variant of its base model it is."""
    adapted_prefix: str = ""
    """How names of layers begin that adapters may sit on; by default they may on all."""
    comfyui_prefix: str = ""
    """What ComfyUI's LoRA files put before `exported_layer`."""

    @property
    @abstractmethod
    def inner_width(self) -> int:
        """I."""

    @property
    def rounded_parts(self) -> tuple[nn.Module, ...]:
        """Where nearly all its weights are: what may be held in 8 bits."""
        return self.transformer_blocks, self.lyric_encoder

    @property
    @abstractmethod
    def weight_dtype(self) -> Any:
        """The torch.dtype of the network's own weights; an adapter's may have another."""

    def exported_layer(self, name: str) -> str:
        """What other programs' LoRA files call a layer that an adapter may sit on."""
        return name

    @abstractmethod
    def condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """Conditions of a prompt's states [B, S, D] and of lyrics [B, L], masks nonzero where a token is real.

        A prompt that is left out is zero. Lyrics [B, L, D] are rows where the base model has them so.
        """

    def null_condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """What guidance leads away from: the same words left out, a text of zeros as long as theirs and no lyrics."""
        nothing = torch.zeros_like(lyric_mask)
        return self.condition(torch.zeros_like(text), text_mask, torch.zeros_like(lyric_ids), nothing)

    def silence(self, frames: int) -> Tensor:
        """Latents of silence [1, C, H, frames] for the slot. Raises UserError where the base model has none."""
        raise UserError(_NO_SLOT.format(name=self.spec.name))

    def with_source(self, conditions: Conditions, source: Tensor, made: Tensor | None = None) -> Conditions:
        """The conditions with latents [B, C, H, T] of a source track in the slot that the network has for one.

        `made` [B, T] is 1 where frames are to be made and 0 where the source stays; None makes all.
        Raises UserError where the base model has no slot.
        """
        raise UserError(_NO_SLOT.format(name=self.spec.name))

    @abstractmethod
    def example(self, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """Made-up latents [1, C, H, T] and conditions that go through every layer an adapter may sit on."""

    @abstractmethod
    def prepare(self, conditions: Conditions) -> Conditions:
        """The conditions with what each block makes of them, for many steps under these weights and this LoRA."""

    @abstractmethod
    def decode(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        *,
        mask: Tensor | None = None,
        injections: Injections | None = None,
        ssl_features: SslFeatures | None = None,
    ) -> Velocity:
        """The velocity of latents [B, C, H, T] at timestep [B] = 1000 * sigma; mask [B, T], nonzero where a frame is
        real. Raises UserError for an injection past the last block.
        """


class LatentCodec(nn.Module):
    """The encoder of sound into latents."""

    layout: LatentLayout
    """Of the latents."""

    @abstractmethod
    def encode(self, wave: Tensor, *, longest: int | None = None) -> Tensor:
        """Scaled latents of a stereo wave, at most `longest` frames at a time. [2, N] -> [C, H, T] float32."""

    @abstractmethod
    def encode_from(self, read: Callable[[int, int], Tensor], frames: int, *, longest: int | None = None) -> Tensor:
        """`encode` of a wave that need not be in memory: [C, H, frames] of what `read(start, end)` gives, [2, n]."""


class LatentDecoder:
    """The way from latents to sound."""

    layout: LatentLayout

    @abstractmethod
    def blocks(self, latents: Tensor, samples: int) -> Iterator[np.ndarray]:
        """Latents [C, H, T] as [2, samples] at the codec's rate, in blocks [2, n], in bounded memory."""

    def wave(self, latents: Tensor, samples: int) -> np.ndarray:
        """`blocks` as one [2, samples]."""
        return np.concatenate(list(self.blocks(latents, samples)), axis=1)

    @abstractmethod
    def rendering(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [C, H, T] as a mono wave [N] and as a picture of their spectrum in [0, 1], low notes below."""


@dataclass(frozen=True)
class LyricTokens:
    """A song's lyrics as the network takes them: token ids, or rows of the text encoder's embedding."""

    ids: np.ndarray  # int32 [L], or float16 [L, D], where rows stand for ids
    reduced: Mapping[str, np.ndarray] = field(default_factory=dict)  # the same of less of them, by LyricsContent
    dropped_words: bool = False
    """Words were left out, because there is no vocabulary."""
    unread: tuple[str, ...] = ()
    """Why each line that was left out could not be read."""


class LyricReader:
    """What makes tokens of lyrics."""

    @abstractmethod
    def check_language(self, language: str) -> None:
        """Raise UserError for a language that lyrics cannot be read in."""

    @abstractmethod
    def read(self, lyrics: str, language: str) -> LyricTokens:
        """Tokens of a song's lyrics; of less of them as well where no trainer could make those by itself."""


@dataclass(frozen=True)
class TextStates:
    """What cross-attention takes of prompts; at padding the states are whatever the encoder makes there."""

    states: Tensor  # [B, S, D]
    mask: Tensor  # [B, S] bool


class PromptEncoder(nn.Module):
    """The text encoder with its tokenizer."""

    spec: BaseSpec

    @abstractmethod
    def embed(self, prompts: Sequence[str], *, weakened: bool = False) -> TextStates:
        """Text states of `prompts`; `weakened` gives those of entropy rectifying guidance.

        Raises UserError where a network cannot be weakened.
        """

    def worded(self, tags: str, *, seconds: float, has_source: bool = True) -> str:
        """What `embed` takes for the tags of a clip of so many seconds, which is to go with a source, or with none."""
        return tags

    @abstractmethod
    def fits(self, prompt: str) -> bool:
        """Whether all of a prompt fits the longest that the encoder takes."""

"""What the rooms ask of a base model's networks, so that another base model is a package of its own.

B items, C latent channels, H latent rows, T latent frames, N samples at the codec's rate, S text tokens, D text width,
L lyric tokens, E condition tokens, I inner width.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from common.bases import BaseSpec
from common.latents import LatentLayout

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

    @property
    @abstractmethod
    def inner_width(self) -> int:
        """I."""

    @property
    @abstractmethod
    def weight_dtype(self) -> Any:
        """The torch.dtype of the network's own weights; an adapter's may have another."""

    @abstractmethod
    def condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """Conditions of a prompt's states [B, S, D] and of lyrics [B, L], masks nonzero where a token is real."""

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


class LatentCodec(Protocol):
    """Sound to latents and back, or one of the two."""

    layout: LatentLayout

    def encode(self, wave: Tensor, *, longest: int | None = None) -> Tensor:
        """Scaled latents of a stereo wave, `longest` frames at a time. [2, N] -> [C, H, T] float32."""
        ...

    def encode_from(self, read: Callable[[int, int], Tensor], frames: int, *, longest: int | None = None) -> Tensor:
        """`encode` of a wave that need not be in memory: [C, H, frames] of what `read(start, end)` gives, [2, n]."""
        ...

"""One of the transformer's blocks. docs/upstream.md, section 2.4.

B items, T latent frames, E condition tokens, I inner width, G width inside the feed-forward.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.acestep1.transformer.attention import CrossAttention, KeysValues, LinearAttention, RotaryTable

NORM_EPS = 1e-6


@dataclass(frozen=True)
class BlockContext:
    """What every block of one pass sees alike; each adds its own table to `modulation`."""

    modulation: Tensor  # [B, 6, I], from the timestep
    latent_mask: Tensor | None  # [B, T] bool, True where a frame is real; None: all are
    latent_table: RotaryTable  # positions 0 .. T-1
    conditions: Tensor  # [B, E, I]
    condition_mask: Tensor | None  # [B, E] bool, True where a token is real; None: all are
    condition_table: RotaryTable  # positions 0 .. E-1


def rms_norm(width: int) -> nn.RMSNorm:
    """x / sqrt(mean(x^2) + 1e-6) over the width, without weights; the mean in float32."""
    return nn.RMSNorm(width, eps=NORM_EPS, elementwise_affine=False)


def modulate(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normed [B, T, I]; shift, scale [B, 1, I]."""
    return torch.addcmul(shift, normed, 1 + scale)


class PointwiseConv(nn.Conv1d):
    """A convolution that looks at one frame only, as the linear layer that it is. [B, T, N] -> [B, T, M]."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.squeeze(-1), self.bias)


class DepthConv(nn.Conv1d):
    """Each channel's own filter over three frames. [B, T, N] -> [B, T, N]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, input: Tensor) -> Tensor:
        image = input.transpose(1, 2).unsqueeze(2)  # an image of one row keeps channels together, a line does not
        made = functional.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=(0, 1), groups=self.groups)
        return made.squeeze(2).transpose(1, 2)


class GluFeedForward(nn.Module):
    """Gated feed-forward whose gate and value also look one frame to each side."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        both = 2 * inner
        self.inverted_conv = nn.Sequential(OrderedDict(conv=PointwiseConv(width, both), act=nn.SiLU()))
        self.depth_conv = nn.Sequential(OrderedDict(conv=DepthConv(both)))
        self.point_conv = nn.Sequential(OrderedDict(conv=PointwiseConv(inner, width, bias=False)))

    def forward(self, states: Tensor) -> Tensor:
        """states [B, T, I]."""
        value, gate = self.depth_conv(self.inverted_conv(states)).chunk(2, dim=-1)
        return self.point_conv(value * functional.silu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; the timestep modulates and gates the first and the last."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = rms_norm(width)
        self.attn = LinearAttention(width, heads)
        self.cross_attn = CrossAttention(width, heads)
        self.norm2 = rms_norm(width)
        self.ff = GluFeedForward(width, int(width * mlp_ratio))
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, states: Tensor, context: BlockContext, keys_values: KeysValues | None = None) -> Tensor:
        """states [B, T, I]; keys_values: what `cross_attn.keys_values` made of the conditions, else made here.

        Cross-attention has neither norm, modulation nor gate: the checkpoint's way.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + context.modulation).chunk(6, dim=1)
        attended = self.attn(modulate(self.norm1(states), shift1, scale1), context.latent_mask, context.latent_table)
        states = torch.addcmul(states, gate1, attended)
        states = states + self.cross_attn(
            states,
            keys_values or self.cross_attn.keys_values(context.conditions, context.condition_table),
            state_mask=context.latent_mask,
            condition_mask=context.condition_mask,
            state_table=context.latent_table,
        )
        return torch.addcmul(states, gate2, self.ff(modulate(self.norm2(states), shift2, scale2)))

"""The two attentions of a transformer block, and the position tables that they share. docs/upstream.md, section 2.4.

B items, T latent frames, E condition tokens, P positions (T or E), A heads, D width of a head, I = A * D inner width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ZERO_GUARD = 1e-15
"""Keeps 0 / 0 of a masked row at 0; far below float32's resolution of any other denominator."""

COUNTED = 4
"""Columns of ones beside the values, which sum up the denominator; one would do, but rows are to begin at 16 bytes."""


@dataclass(frozen=True)
class RotaryTable:
    """Cosine and sine of every position's angles. Always float32, whatever the network's dtype."""

    cos: Tensor  # [P, D]
    sin: Tensor  # [P, D]
    signed: Tensor  # [P, D], sine, negated on even elements
    back: Tensor  # [P, D], the same of each element's companion


def rotary_table(
    length: int, width: int, *, theta: float, device: torch.device, rounded_to: torch.dtype = torch.float32
) -> RotaryTable:
    """The table of positions 0 .. length - 1 for heads of `width`: D/2 angles followed by the same D/2 angles.

    Made anew for each call of the network, which costs nothing beside a block: so there is no buffer that loading or
    casting a network could round. `rounded_to` rounds the entries to that dtype and back (docs/upstream.md,
    section 2.5).
    """
    frequencies = 1 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies).repeat(1, 2)
    cos, sin = (table.to(rounded_to).float() for table in (angles.cos(), angles.sin()))
    even, odd = sin.unflatten(-1, (-1, 2)).unbind(-1)
    signed = torch.stack((-even, odd), dim=-1).flatten(-2)
    return RotaryTable(cos, sin, signed, companion(signed))


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """x [B, A, P, D] with positions mixed in; float32.

    Elements 2k and 2k+1 are paired, as in interleaved RoPE, but the table is laid out in halves, so that the two get
    different angles. That is no rotation, and it is what the checkpoint was trained with: do not mend it.
    """
    return Rotation.apply(x, table.cos, table.signed, table.back)


class Rotation(torch.autograd.Function):
    """cos * x + signed * companion of x. The backward pass is the same with `back`: only tables are kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(cos, back)
        ctx.dtype = x.dtype
        return (x * cos).addcmul_(companion(x), signed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        cos, back = ctx.saved_tensors
        return (gradient * cos).addcmul_(companion(gradient), back).to(ctx.dtype), None, None, None


def companion(x: Tensor) -> Tensor:
    """x [.., D] with elements 2k and 2k+1 exchanged."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, P, A*D] -> [B, A, P, D]: each head is a contiguous chunk of the width."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, A, P, D] -> [B, P, A*D]."""
    return x.transpose(1, 2).flatten(2)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """sum_s (q . k_s) v_s / sum_s (q . k_s) for q, k >= 0, without softmax. q, k, v and the result [B, A, T, D].

    Float32 inside, also under autocast: the sums run over thousands of frames. The result has v's dtype.
    """
    with torch.autocast(q.device.type, enabled=False):
        ones = v.new_ones((*v.shape[:-1], COUNTED), dtype=torch.float32)
        q, k, counted = q.float(), k.float(), torch.cat((v, ones), dim=-1)
        sums = q @ (k.transpose(-1, -2) @ counted)
        numerator, denominator = sums.split_with_sizes((v.shape[-1], COUNTED), dim=-1)
        return (numerator / (denominator[..., :1] + ZERO_GUARD)).to(v.dtype)


@dataclass(frozen=True)
class KeysValues:
    """Keys and values that a cross-attention makes of the condition tokens."""

    keys: Tensor  # [B, A, E, D], positions mixed in
    values: Tensor  # [B, A, E, D]


class LinearAttention(nn.Module):
    """Self-attention over latent frames, linear in their number."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, states: Tensor, mask: Tensor | None, table: RotaryTable) -> Tensor:
        """states [B, T, I]; mask [B, T] bool, True where a frame is real, or None. Masked frames give the output bias.

        A masked k is 0, so its v adds nothing and needs no mask.
        """
        q = rotate(split_heads(self.to_q(states), self.heads), table).relu_()
        k = rotate(split_heads(self.to_k(states), self.heads), table).relu_()
        v = split_heads(self.to_v(states), self.heads)
        if mask is not None:
            real = mask[:, None, :, None]
            q, k = q * real, k * real
        return self.to_out(merge_heads(linear_attention(q, k, v)))


class CrossAttention(nn.Module):
    """Softmax attention from latent frames to condition tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        # Stored in every checkpoint and never used; they are here so that names and files match exactly.
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.to_add_out = nn.Linear(width, width)

    def keys_values(self, conditions: Tensor, table: RotaryTable) -> KeysValues:
        """What this layer makes of condition tokens [B, E, I] at the positions of `table`, whatever the latents are."""
        keys = rotate(split_heads(self.to_k(conditions), self.heads), table)
        return KeysValues(keys.to(conditions.dtype), split_heads(self.to_v(conditions), self.heads))

    def forward(
        self,
        states: Tensor,
        keys_values: KeysValues,
        *,
        state_mask: Tensor | None,
        condition_mask: Tensor | None,
        state_table: RotaryTable,
    ) -> Tensor:
        """states [B, T, I]; masks bool, True where real, or None: state_mask [B, T], condition_mask [B, E]. Masked
        frames give the output bias.

        Masked frames are zeroed after the softmax, which equals masking their whole row before it, takes a mask of
        one row instead of T, and never divides 0 by 0.
        """
        q = rotate(split_heads(self.to_q(states), self.heads), state_table).to(keys_values.keys.dtype)
        visible = None if condition_mask is None else condition_mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, keys_values.keys, keys_values.values, attn_mask=visible)
        merged = merge_heads(mixed)
        if state_mask is not None:
            merged = merged * state_mask.unsqueeze(-1)
        return self.to_out(merged)

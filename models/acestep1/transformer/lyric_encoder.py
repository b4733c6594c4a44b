"""The lyric encoder: a Conformer without convolution, with attention relative in position. docs/upstream.md, section 3.

B items, L lyric tokens, O = 2L-1 offsets between two of them, W width, A heads, D = W / A width of a head.
"""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.acestep1.transformer.attention import merge_heads, split_heads

DROPOUT = 0.1


def offset_table(length: int, width: int, *, device: torch.device, rounded_to: torch.dtype = torch.float32) -> Tensor:
    """Sinusoids of the offsets L-1 down to -(L-1), sine on even and cosine on odd elements: [O, W], float32.

    `rounded_to` rounds the entries to that dtype and back (docs/upstream.md, section 2.5).
    """
    offsets = torch.arange(length - 1, -length, -1, dtype=torch.float32, device=device)
    halves = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = torch.outer(offsets, torch.exp(halves * (-math.log(10000) / width)))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(rounded_to).float()


def by_offset(scores: Tensor) -> Tensor:
    """Scores per offset [.., L, O], offsets L-1 down to -(L-1), to scores per pair [.., L, L]: (i, j) has offset i - j.

    Row i needs columns L-1-i onwards. Padded to 2L columns and read with a row length of 2L-1, every next row starts
    one column earlier: no index, no copy beyond the padding.
    """
    length, offsets = scores.shape[-2:]
    flat = functional.pad(scores, (0, 1)).flatten(-2)
    rows = flat[..., length - 1 : length - 1 + length * offsets].unflatten(-1, (length, offsets))
    return rows[..., :length]


class RelativeAttention(nn.Module):
    """Softmax attention whose scores add a term of content and a term of the offset between two tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, width // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, states: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """states [B, L, W]; table [O, W]; mask [B, L] bool, True where a token is real.

        An item without any real token attends to nothing and gives the output bias.
        """
        q, k, v = (split_heads(f(states), self.heads) for f in (self.linear_q, self.linear_k, self.linear_v))
        positions = split_heads(self.linear_pos(table[None]), self.heads)
        content = (q + self.pos_bias_u[:, None]) @ k.transpose(-1, -2)
        position = by_offset((q + self.pos_bias_v[:, None]) @ positions.transpose(-1, -2))
        scores = (content + position) / math.sqrt(q.shape[-1])
        hidden = ~mask[:, None, None, :]
        # The least finite number, not -inf: rows without a real token stay finite, forwards and backwards.
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.float32).masked_fill(hidden, 0).to(v.dtype)
        return self.linear_out(merge_heads(weights @ v))


class LyricEncoderLayer(nn.Module):
    """Attention, then feed-forward, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(width)
        self.self_attn = RelativeAttention(width, heads)
        self.norm_ff = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            OrderedDict(
                w_1=nn.Linear(width, feed_forward),
                activation=nn.SiLU(),
                dropout=nn.Dropout(DROPOUT),
                w_2=nn.Linear(feed_forward, width),
            )
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, states: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        states = states + self.dropout(self.self_attn(self.norm_mha(states), table, mask))
        return states + self.dropout(self.feed_forward(self.norm_ff(states)))


class LyricEmbedding(nn.Module):
    """[B, L, input width] -> [B, L, W], scaled by sqrt(W)."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.out = nn.Sequential(nn.Linear(input_width, width), nn.LayerNorm(width), nn.Dropout(DROPOUT))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(tokens) * self.scale


class LyricEncoder(nn.Module):
    """[B, L, input width] -> [B, L, W]: every token sees every real token of its item."""

    _gradient_checkpointing_func: Callable[..., Tensor]  # the transformer's enable_gradient_checkpointing sets it

    def __init__(self, input_width: int, width: int, *, heads: int, feed_forward: int, layers: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.width = width
        self.embed = LyricEmbedding(input_width, width)
        self.dropout = nn.Dropout(DROPOUT)
        self.encoders = nn.ModuleList(LyricEncoderLayer(width, heads, feed_forward) for _ in range(layers))
        self.after_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor, *, table_rounded_to: torch.dtype = torch.float32) -> Tensor:
        """tokens [B, L, input width]; mask [B, L] bool, True where a token is real.

        Masked tokens influence no other, but come out as numbers like any: whoever reads the result masks them.
        """
        table = offset_table(tokens.shape[1], self.width, device=tokens.device, rounded_to=table_rounded_to)
        states = self.dropout(self.embed(tokens))
        table = self.dropout(table.to(states.dtype))
        for layer in self.encoders:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                states = self._gradient_checkpointing_func(layer, states, table, mask)
            else:
                states = layer(states, table, mask)
        return self.after_norm(states)

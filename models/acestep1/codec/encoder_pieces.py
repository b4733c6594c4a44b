"""The DCAE's encoder piece by piece: what it makes of a whole clip, in the memory of a piece. docs/upstream.md,
section 5.4.

Convolutions look a known number of frames aside: a piece is read with that much context, and what the network makes of
the context is dropped. The attention is a ratio of two sums over all positions: a first round over the pieces sums, a
second one divides. So pieces change the order of additions, and nothing else.

H latent rows (16), T latent frames, n frames of a piece with its context, F = 8·n mel frames, I inner channels (1024),
D width of an attention head (32), G heads of all scales, P positions of a piece.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import cast

import torch
from diffusers.models.attention_processor import SanaMultiscaleLinearAttention
from diffusers.models.autoencoders.autoencoder_dc import EfficientViTBlock, Encoder
from torch import Tensor, nn
from torch.nn import functional

from common.bases import ACE_STEP_1
from models.acestep1.codec.mel import HOP_SAMPLES, PADDING


@dataclass(frozen=True)
class EncoderPiece:
    """Frames from `start` to before `end`, which need those from `first` to before `last`."""

    start: int
    end: int
    first: int
    last: int

    @property
    def read(self) -> slice:
        """The piece and its context, as an index of all frames."""
        return slice(self.first, self.last)

    def kept(self, made: Tensor) -> Tensor:
        """What belongs to the piece, of what was made of all that was read."""
        return made[..., self.start - self.first : self.end - self.first]


def cut(frames: int, longest: int, context: int) -> list[EncoderPiece]:
    """As few pieces as cover all frames, of nearly one length, with as much of the context as there is."""
    count = ceil(frames / longest)
    bounds = pairwise(frames * number // count for number in range(count + 1))
    return [EncoderPiece(start, end, max(start - context, 0), min(end + context, frames)) for start, end in bounds]


def reach(network: nn.Module) -> int:
    """Frames that convolutions one after the other look aside."""
    return sum(conv.kernel_size[-1] // 2 for conv in network.modules() if isinstance(conv, nn.Conv2d))


def context_of(encoder: Encoder) -> int:
    """Latent frames that all before the attention looks aside, and the mel, which mirrors a piece at its ends."""
    mel_frames = ceil(PADDING / HOP_SAMPLES) + reach(encoder.conv_in)
    mel_frames += sum(reach(stage) << halved for halved, stage in enumerate(encoder.down_blocks[:-1]))
    return ceil(mel_frames * HOP_SAMPLES / ACE_STEP_1.latents.frame_samples)


def encode_in_pieces(encoder: Encoder, mel: Callable[[slice], Tensor], *, frames: int, longest: int) -> Tensor:
    """What the encoder makes of `frames` latent frames, `longest` of them at a time. [C, H, T]

    `mel` gives the normalised mel of some frames, [1, 2, 128, F].
    """
    pieces = cut(frames, longest, context_of(encoder))
    hidden = _joined(frames, (piece.kept(_downsampled(encoder, mel(piece.read))) for piece in pieces))
    for block in cast("nn.Sequential", encoder.down_blocks[-1]):
        assert isinstance(block, EfficientViTBlock)
        hidden = _attended(block.attn, hidden, longest)
        pieces = cut(frames, longest, reach(block.conv_out))
        hidden = _joined(frames, (piece.kept(block.conv_out(hidden[..., piece.read])) for piece in pieces))
    shortcut = hidden.unflatten(1, (-1, encoder.out_shortcut_average_group_size)).mean(dim=2)
    return (encoder.conv_out(hidden) + shortcut)[0]


def _downsampled(encoder: Encoder, mel: Tensor) -> Tensor:
    """All before the attention. [1, 2, 128, F] -> [1, I, H, n]"""
    hidden = encoder.conv_in(mel)
    for stage in encoder.down_blocks[:-1]:
        hidden = stage(hidden)
    return hidden


def _joined(frames: int, parts: Iterable[Tensor]) -> Tensor:
    """Parts that come one by one, end to end: [1, I, H, T]. No two of them are held."""
    whole, done = torch.empty(0), 0
    for part in parts:
        whole = whole if done else part.new_empty(*part.shape[:-1], frames)
        whole[..., done : done + part.shape[-1]] = part
        done += part.shape[-1]
    return whole


def _attended(attention: SanaMultiscaleLinearAttention, hidden: Tensor, longest: int) -> Tensor:
    """Attention of all positions to all, added to [1, I, H, T]."""
    frames = hidden.shape[-1]
    pieces = cut(frames, longest, reach(attention))
    sums = torch.stack([_sums(_heads(attention, hidden, piece)) for piece in pieces]).sum(0)
    return _joined(frames, (_answer(attention, hidden, piece, sums) for piece in pieces))


@dataclass(frozen=True)
class Heads:
    """What the positions of a piece ask, and what they have to say; float32 as the sums over them must be."""

    query: Tensor  # [1, G, D, P]
    key: Tensor  # [1, G, D, P]
    value: Tensor  # [1, G, D, P]


def _heads(attention: SanaMultiscaleLinearAttention, hidden: Tensor, piece: EncoderPiece) -> Heads:
    near = hidden[..., piece.read].movedim(1, -1)
    plain = torch.cat([attention.to_q(near), attention.to_k(near), attention.to_v(near)], dim=-1).movedim(-1, 1)
    scales = torch.cat([plain, *(scale(plain) for scale in attention.to_qkv_multiscale)], dim=1)
    grouped = piece.kept(scales).float().flatten(2).unflatten(1, (-1, 3 * attention.attention_head_dim))
    query, key, value = grouped.chunk(3, dim=2)
    return Heads(attention.nonlinearity(query), attention.nonlinearity(key), value)


def _sums(heads: Heads) -> Tensor:
    """Over a piece's positions: of key times value, and below them of the keys. [1, G, D + 1, D]"""
    return functional.pad(heads.value, (0, 0, 0, 1), value=1.0) @ heads.key.mT


def _answer(attention: SanaMultiscaleLinearAttention, hidden: Tensor, piece: EncoderPiece, sums: Tensor) -> Tensor:
    """What a piece makes of the sums over all pieces, added to it. [1, I, H, T] -> [1, I, H, piece]"""
    own = hidden[..., piece.start : piece.end]
    weighted = sums @ _heads(attention, hidden, piece).query
    mean = (weighted[:, :, :-1] / (weighted[:, :, -1:] + attention.eps)).to(hidden.dtype)
    made = attention.norm_out(attention.to_out(mean.flatten(1, 2).unflatten(2, own.shape[2:]).movedim(1, -1)))
    return own + made.movedim(-1, 1)

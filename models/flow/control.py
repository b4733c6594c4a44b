"""The control encoder: a small transformer that reads the vocal and adds to inputs of some blocks of the frozen base.

B songs, C latent channels (8), H latent rows (16), T latent frames, I inner width of the base, W width of the encoder.
docs/formulation.md, section 5.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from models.acestep1.transformer.timestep import FREQUENCIES, timestep_sinusoid
from models.flow.conditioning import VocalSource, frames_first, in_tokens, mask_in_tokens
from models.flow.options import ControlInjection
from models.protocols import Injections

ROPE_THETA = 1_000_000.0
QUIETEST_CONTROL = 1e-3
"""A control whose standard deviation over a clip is smaller is left out: cross_norm would blow it up to full size."""


class ControlEncoder(nn.Module):
    """Vocal latents to residuals for the inputs of `injection_layers` of a base with `blocks` blocks.

    A latent frame has `frame_values` numbers, and `block_frames` of them lie under one token of the base. Fresh, it
    changes nothing: the last layer of each residual starts at zero ("zero"), or its gate does ("cross_norm"). Its
    weights are drawn from `seed`. Raises UserError for a width that the heads do not divide and for a layer named twice
    or absent from the base.
    """

    def __init__(
        self,
        *,
        depth: int = 6,
        dim: int = 1536,
        head_dim: int = 128,
        frame_values: int,
        out_dim: int,
        blocks: int,
        block_frames: int = 1,
        injection_layers: Sequence[int],
        control_injection: ControlInjection = "zero",
        controlnet_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        _check(dim, head_dim, injection_layers, blocks)
        super().__init__()
        self.injection_layers = tuple(injection_layers)
        self.controlnet_scale = controlnet_scale
        self.head_dim = head_dim
        self.block_frames = block_frames
        self.patch_embed = nn.Linear(block_frames * frame_values, dim)
        self.time_embed = nn.Sequential(nn.Linear(2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(ControlBlock(dim, head_dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.out = nn.ModuleList(nn.Linear(dim, out_dim) for _ in injection_layers)
        gated = control_injection == "cross_norm"
        self.gates = nn.Parameter(torch.zeros(len(self.injection_layers))) if gated else None
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.gates is None:
            for parameter in self.out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, vocal: Tensor, timestep: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the encoder makes of a vocal: [B, C, H, T] and timestep [B] -> [B, T, W]. mask [B, T] bool.

        T of the result, and of `mask`, is counted in tokens of the base.
        """
        dtype = self.patch_embed.weight.dtype
        hidden = self.patch_embed(in_tokens(frames_first(vocal), self.block_frames).to(dtype))
        time = self.time_embed(timestep_sinusoid(timestep).to(dtype)).unsqueeze(1)
        turns = turns_of(hidden.shape[1], self.head_dim, like=hidden)
        for block in self.blocks:
            hidden = block(hidden, time, mask, turns)
        return self.norm(hidden)

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        """Residuals for timestep [B] = 1000 * sigma, each times the item's strength and controlnet_scale."""
        mask = mask_in_tokens(source.mask, self.block_frames)
        hidden = self(source.conditioner_input, timestep, mask)
        strength = self.controlnet_scale * source.strength[:, None, None]
        gates = [None] * len(self.out) if self.gates is None else list(self.gates)
        return {
            index: _injection(out(hidden), strength, gate, mask)
            for index, out, gate in zip(self.injection_layers, self.out, gates, strict=True)
        }


class ControlBlock(nn.Module):
    """Self-attention over time, then a feed-forward network, both behind an RMS norm. [B, T, W] -> [B, T, W]."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm_attn = nn.RMSNorm(dim, eps=1e-6)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.norm_mlp = nn.RMSNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, hidden: Tensor, time: Tensor, mask: Tensor | None, turns: Tensor) -> Tensor:
        """hidden [B, T, W], time [B, 1, W], mask [B, T] bool or None; turns of `turns_of`."""
        hidden = hidden + self._attend(self.norm_attn(hidden + time), mask, turns)
        return hidden + self.mlp(self.norm_mlp(hidden))

    def _attend(self, hidden: Tensor, mask: Tensor | None, turns: Tensor) -> Tensor:
        split = self.to_qkv(hidden).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # each [B, heads, T, head_dim]
        seen = None if mask is None else mask[:, None, None, :]
        query, key = rotate(query, turns), rotate(key, turns)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


def turns_of(frames: int, size: int, *, like: Tensor) -> Tensor:
    """Cosine and sine of positions 0 ... T-1 for heads of `size` D: [2, T, D/2], as `like` is."""
    rate = ROPE_THETA ** (-torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size)
    angle = torch.arange(frames, device=like.device, dtype=torch.float32).unsqueeze(1) * rate
    return torch.stack((angle.cos(), angle.sin())).to(like.dtype)


def rotate(heads: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions on [B, heads, T, D]: element j turns with element j + D/2."""
    cos, sin = turns
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def cross_norm(hidden: Tensor, control: Tensor, mask: Tensor | None) -> Tensor:
    """`control` with the mean and size of `hidden`, [B, T, I], in float32; 0 for an item whose control is near silent.

    Statistics run over width and real frames of each item (mask [B, T] bool); docs/formulation.md, section 5.
    """
    hidden, control = hidden.float(), control.float()
    real = torch.ones_like(hidden[..., :1]) if mask is None else mask.unsqueeze(-1).float()
    hidden_mean, hidden_std = _statistics(hidden, real)
    mean, std = _statistics(control, real)
    matched = (control - mean) * (hidden_std / (std + 1e-5)) + hidden_mean
    return torch.where(std < QUIETEST_CONTROL, torch.zeros_like(matched), matched)


def _statistics(values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation per item, [B, 1, 1], of [B, T, I] where real [B, T, 1] is 1."""
    count = real.sum((1, 2), keepdim=True) * values.shape[-1]
    mean = (values * real).sum((1, 2), keepdim=True) / count
    variance = ((values - mean).square() * real).sum((1, 2), keepdim=True) / (count - 1)
    return mean, (variance + torch.finfo(values.dtype).tiny).sqrt()


def _injection(
    residual: Tensor, strength: Tensor, gate: Tensor | None, mask: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """hidden [B, T, I] -> hidden + strength * residual, with gate * cross_norm(hidden, residual) if there is a gate."""

    def inject(hidden: Tensor) -> Tensor:
        control = residual if gate is None else gate * cross_norm(hidden, residual, mask)
        return hidden + (strength * control).to(hidden.dtype)

    return inject


def _check(dim: int, head_dim: int, injection_layers: Sequence[int], blocks: int) -> None:
    if dim % head_dim:
        raise UserError(f"control_encoder_dim: {dim} is not a multiple of {head_dim}; 1536 is the default.")
    check_layers(injection_layers, blocks)


def spread_layers(count: int, blocks: int) -> str:
    """So many of a base's blocks, or all where it has fewer, evenly from the first, as a setting has them."""
    count = min(count, blocks)
    return f"[{','.join(str(number * blocks // count) for number in range(count))}]"


def check_layers(injection_layers: Sequence[int], blocks: int) -> None:
    """Raises UserError for a layer that is named twice or is none of a base's `blocks`."""
    if len(set(injection_layers)) < len(injection_layers):
        raise UserError(f"injection_layers: {list(injection_layers)} names a block twice. Name each block once.")
    for layer in injection_layers:
        if not 0 <= layer < blocks:
            raise UserError(
                f"injection_layers: this base has {blocks} blocks, 0 to {blocks - 1}; {layer} is none of them. "
                f"Use --set accompaniment.injection_layers={spread_layers(len(injection_layers), blocks)}."
            )

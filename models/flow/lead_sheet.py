"""The lead sheet encoder: what a lead sheet says of each frame, added to inputs of some blocks of the base.

B songs, T latent frames, S numbers a frame of a lead sheet, W width of the encoder, I inner width of the base.
docs/formulation.md, section 8.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.acestep1.transformer.timestep import FREQUENCIES, timestep_sinusoid
from models.flow.conditioning import Conditioner, SourceProjection, VocalSource, in_tokens, mask_in_tokens
from models.flow.control import ControlEncoder, check_layers
from models.protocols import Injections

KERNEL_FRAMES = 15
"""Frames that a block looks at around each: 1.4 s of ACE-Step v1."""


class LeadSheetEncoder(nn.Module):
    """Features of a lead sheet to residuals for the inputs of `injection_layers` of a base with `blocks` blocks.

    It looks at some seconds around each frame, so that a song of any length, and every window of it, is read alike.
    Fresh, it changes nothing: the last layer of each residual starts at zero. Its weights are drawn from `seed`.
    Raises UserError for a layer that is named twice or absent from the base.
    """

    def __init__(
        self,
        *,
        depth: int,
        dim: int,
        features: int,
        out_dim: int,
        blocks: int,
        block_frames: int = 1,
        injection_layers: Sequence[int],
        seed: int = 0,
    ) -> None:
        check_layers(injection_layers, blocks)
        super().__init__()
        self.injection_layers = tuple(injection_layers)
        self.block_frames = block_frames
        self.embed = nn.Linear(block_frames * features, dim)
        self.time_embed = nn.Sequential(nn.Linear(2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(LeadSheetBlock(dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.out = nn.ModuleList(nn.Linear(dim, out_dim) for _ in injection_layers)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
            elif isinstance(module, nn.Conv1d):
                bound = KERNEL_FRAMES**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if isinstance(module, nn.Linear | nn.Conv1d):
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, timestep: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the encoder makes of a sheet: [B, T, S] and timestep [B] -> [B, T, W]. mask [B, T] bool."""
        dtype = self.embed.weight.dtype
        hidden = self.embed(in_tokens(features, self.block_frames).to(dtype))
        hidden = hidden + self.time_embed(timestep_sinusoid(timestep).to(dtype)).unsqueeze(1)
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm(hidden)

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        """Residuals for timestep [B] = 1000 * sigma, each times the sheet's strength; none without a sheet."""
        if source.lead_sheet is None or source.lead_sheet_strength is None:
            return {}
        hidden = self(source.lead_sheet, timestep, mask_in_tokens(source.mask, self.block_frames))
        strength = source.lead_sheet_strength[:, None, None]
        return {
            layer: _added(strength * out(hidden)) for layer, out in zip(self.injection_layers, self.out, strict=True)
        }


class LeadSheetBlock(nn.Module):
    """A depthwise convolution over time and a feed-forward network behind an RMS norm. [B, T, W] -> [B, T, W]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, KERNEL_FRAMES, padding=KERNEL_FRAMES // 2, groups=dim)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """hidden [B, T, W], mask [B, T] bool or None: frames that are not real count as those past the end."""
        real = hidden if mask is None else hidden * mask.unsqueeze(-1)
        mixed = self.depthwise(real.transpose(1, 2)).transpose(1, 2)
        return hidden + self.mlp(self.norm(hidden + mixed))


class VocalAndLeadSheet(nn.Module):
    """Both paths into the network; each changes nothing where its strength is 0."""

    def __init__(self, vocal: SourceProjection | ControlEncoder | None, lead_sheet: LeadSheetEncoder) -> None:
        super().__init__()
        self.vocal, self.lead_sheet = vocal, lead_sheet

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        added = [part.injections(source, timestep) for part in (self.vocal, self.lead_sheet) if part is not None]
        return {layer: _in_turn([one[layer] for one in added if layer in one]) for one in added for layer in one}


def vocal_part(conditioner: Conditioner | None) -> Conditioner | None:
    """What of a conditioner is for the vocal."""
    return conditioner.vocal if isinstance(conditioner, VocalAndLeadSheet) else conditioner


def _added(residual: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda hidden: hidden + residual.to(hidden.dtype)


def _in_turn(injections: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def inject(hidden: Tensor) -> Tensor:
        for injection in injections:
            hidden = injection(hidden)
        return hidden

    return inject

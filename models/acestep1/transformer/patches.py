"""The transformer's two ends: latents to one token per frame, and back. docs/upstream.md, section 2.4.

B items, C latent channels, H latent rows, T latent frames, I inner width.
"""

import torch
from torch import Tensor, nn

from models.acestep1.transformer.block import NORM_EPS, modulate, rms_norm

CONV_CHANNELS = 256
"""Channels of the first convolution per latent channel."""
GROUPS = 32


class PatchEmbedding(nn.Module):
    """[B, C, H, T] -> [B, T, I]. Its group norm takes statistics over all frames of an item, padding included."""

    def __init__(self, channels: int, rows: int, width: int) -> None:
        super().__init__()
        inner = channels * CONV_CHANNELS
        self.early_conv_layers = nn.Sequential(
            nn.Conv2d(channels, inner, kernel_size=(rows, 1), stride=(rows, 1)),
            nn.GroupNorm(GROUPS, inner, eps=NORM_EPS),
            nn.Conv2d(inner, width, kernel_size=1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.early_conv_layers(latents).flatten(2).transpose(1, 2)


class FinalLayer(nn.Module):
    """[B, T, I] -> [B, C, H, T]. A token's H*C numbers are rows of channels: the channel runs fastest."""

    def __init__(self, width: int, rows: int, channels: int) -> None:
        super().__init__()
        self.rows = rows
        self.norm_final = rms_norm(width)
        self.linear = nn.Linear(width, rows * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, states: Tensor, embedded_timestep: Tensor) -> Tensor:
        """states [B, T, I]; embedded_timestep [B, I]. Row 0 of the table shifts, row 1 scales."""
        shift, scale = (self.scale_shift_table + embedded_timestep.unsqueeze(1)).chunk(2, dim=1)
        tokens = self.linear(modulate(self.norm_final(states), shift, scale))
        return tokens.unflatten(-1, (self.rows, -1)).permute(0, 3, 2, 1)

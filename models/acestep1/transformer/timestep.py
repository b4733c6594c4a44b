"""The timestep's way into the transformer. docs/upstream.md, section 2.4. B items, I inner width."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FREQUENCIES = 128


def timestep_sinusoid(timestep: Tensor) -> Tensor:
    """timestep [B] = 1000 * sigma -> [B, 256] float32: the cosines of 128 frequencies, then their sines."""
    steps = torch.arange(FREQUENCIES, dtype=torch.float32) * (-math.log(10000) / FREQUENCIES)
    rates = steps.double().exp().float()  # a float32 exp differs between processors, at 1000 by up to 3e-5 of an angle
    angles = timestep.float().unsqueeze(-1) * rates.to(timestep.device)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedder(nn.Module):
    """[B, 256] -> [B, I]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(2 * FREQUENCIES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sinusoid: Tensor) -> Tensor:
        return self.linear_2(functional.silu(self.linear_1(sinusoid)))

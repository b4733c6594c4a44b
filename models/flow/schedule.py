"""Flow matching as ACE-Step does it: the grids of sigma, the path between data and noise, the samplers' steps.

B songs, C latent channels (8), H latent rows (16), T latent frames. sigma is the share of noise: 1 is noise, 0 data;
timestep = 1000 * sigma is what the network is told. A sigma is [B], or [] if all songs share it.
docs/upstream.md, section 9.
"""

import math
from typing import Literal, TypeVar

import torch
from torch import Tensor

from common.bases import NoiseLevels

TIMESTEPS = 1000
"""Points of the training grid, and what sigma 1 is called as a timestep."""

OmegaMean = Literal["item", "batch"]
"""Over what the omega trick takes its mean: "batch" is upstream's, where the items of a batch sway each other."""

ON_THE_GRID = NoiseLevels(points=TIMESTEPS)

HIGH_NOISE = 0.85
"""Sigma from which on a song's layout is decided, and the vocal matters most."""

Sigma = TypeVar("Sigma", float, Tensor)


def shift_sigma(sigma: Sigma, shift: float) -> Sigma:
    """Bend a grid of sigmas towards noise (shift > 1); 0 and 1 stay."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def training_timesteps(shift: float) -> Tensor:
    """The timesteps that training draws from, [1000] float32, descending from 1000."""
    even = torch.arange(TIMESTEPS, 0, -1, dtype=torch.float32) / TIMESTEPS
    return shift_sigma(even, shift) * TIMESTEPS


def draw_timesteps(
    count: int, *, shift: float, generator: torch.Generator, levels: NoiseLevels = ON_THE_GRID
) -> Tensor:
    """Timesteps of one training step, [count] float32 on the generator's device, as `levels` say; by default points of
    the training grid, whose index is logit-normal(0, 1).
    """
    if levels.only is not None:
        return _drawn_of(torch.tensor(levels.only) * TIMESTEPS, count, generator)
    share = (torch.randn(count, generator=generator, device=generator.device) + levels.mean).sigmoid()
    if levels.points is None:
        return shift_sigma(share, shift) * TIMESTEPS
    index = (share * levels.points).long().clamp(max=levels.points - 1)
    return training_timesteps(shift).to(generator.device)[index]


def draw_high_timesteps(
    count: int, *, shift: float, generator: torch.Generator, levels: NoiseLevels = ON_THE_GRID
) -> Tensor:
    """As draw_timesteps, but even over what there is from sigma HIGH_NOISE up, by default points of the grid."""
    grid = training_timesteps(shift) if levels.only is None else torch.tensor(levels.only) * TIMESTEPS
    return _drawn_of(grid[grid >= HIGH_NOISE * TIMESTEPS], count, generator)


def _drawn_of(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count] of `values`, each as likely."""
    index = torch.randint(len(values), (count,), generator=generator, device=generator.device)
    return values.to(generator.device)[index]


def inference_sigmas(steps: int, *, shift: float, sigma_max: float = 1.0, shifts_ends: bool = True) -> Tensor:
    """The sigmas that `steps` sampling steps run through, [steps + 1] float32, descending, the last one 0.

    The even grid from `sigma_max` to 0 is shifted. Where a base model `shifts_ends`, as ACE-Step v1 does, the ends of
    the grid are shifted already, and then all of it is (again): the first sigma is shift(shift(sigma_max)), the last
    before 0 shift(shift(1/1000)).
    """
    if not shifts_ends:
        return shift_sigma(torch.linspace(sigma_max, 0, steps + 1, dtype=torch.float64), shift).float()
    even = torch.linspace(shift_sigma(sigma_max, shift), shift_sigma(1 / TIMESTEPS, shift), steps, dtype=torch.float64)
    return torch.cat([shift_sigma(even, shift).float(), torch.zeros(1)])


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Point between clean (sigma 0) and noise (sigma 1), both met exactly. clean, noise [B, C, H, T]."""
    sigma = _over(sigma, clean)
    return sigma * noise + (1 - sigma) * clean


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the network is to predict: the change of a state with sigma, on the way from clean to noise."""
    return noise - clean


def clean_estimate(state: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The data that a state [B, C, H, T] and its velocity point at."""
    return state - _over(sigma, state) * velocity


def euler_step(
    state: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    *,
    omega: float = 0.0,
    omega_mean: OmegaMean = "item",
) -> Tensor:
    """Follow `velocity` from sigma to sigma_next, [B, C, H, T], in float32 or better.

    omega > 0 enlarges what a step changes about its own mean (10: by 4.6 %); 0 is plain Euler.
    """
    precise = torch.promote_types(state.dtype, torch.float32)
    change = _over(sigma_next - sigma, state) * velocity.to(precise)
    if omega != 0:
        axes = tuple(range(0 if omega_mean == "batch" else 1, change.ndim))
        mean = change.mean(axes, keepdim=True)
        change = (change - mean) * omega_gain(omega) + mean
    return state.to(precise) + change


def omega_gain(omega: float) -> float:
    """Gain of a step about its mean: 1 at omega 0, within 0.9 to 1.1."""
    return 0.9 + 0.2 / (1 + math.exp(-0.1 * omega))


def heun_step(
    state: Tensor,
    velocity: Tensor,
    velocity_next: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    *,
    omega: float = 0.0,
    omega_mean: OmegaMean = "item",
) -> Tensor:
    """Second stage of a Heun step: `velocity` was met at `state`, `velocity_next` at the end of an Euler step from it.

    Arguments and result as in euler_step.
    """
    mean = (velocity + velocity_next) / 2
    return euler_step(state, mean, sigma, sigma_next, omega=omega, omega_mean=omega_mean)


def pingpong_step(state: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, *, noise: Tensor) -> Tensor:
    """Jump to the data that `velocity` points at and back to sigma_next with fresh `noise` [B, C, H, T].

    Under a vocal, `noise` must be what the state started from in kind: Objective.make_x1 of fresh noise.
    """
    return add_noise(clean_estimate(state, velocity, sigma), noise, sigma_next)


def _over(sigma: Tensor, like: Tensor) -> Tensor:
    """sigma, [B] or [], shaped to multiply `like` [B, ...]."""
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim)) if sigma.ndim else sigma

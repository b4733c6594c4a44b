"""Guidance: how predictions with and without conditions become one. docs/upstream.md, section 9.

B songs, C latent channels (8), H latent rows (16), T latent frames. All predictions are [B, C, H, T].
`scale` 1 is the conditional prediction itself, except for cfg_double, which has a scale per step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Leg = Callable[[Tensor, Tensor], Tensor]
"""The difference that a condition makes and the conditional prediction -> what is kept of the difference."""

EACH_CHANNEL = (-1, -2)
"""APG measures norms and directions over rows and frames: per item and channel."""


def cfg(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: on from the unconditional prediction, through the conditional one."""
    return unconditional + scale * (conditional - unconditional)


def cfg_double(full: Tensor, partial: Tensor, none: Tensor, *, partial_scale: float, full_scale: float) -> Tensor:
    """Guidance in two legs: none -> partial, scaled by partial_scale, then partial -> full, scaled by full_scale.

    Upstream's double condition (text, then text and lyrics); also the guidance over a control of docs/formulation.md,
    section 5 (text, then text and vocal).
    """
    return none + partial_scale * (partial - none) + full_scale * (full - partial)


def cfg_zero_star(conditional: Tensor, unconditional: Tensor, scale: float, *, step: int) -> Tensor:
    """CFG-zero*: the unconditional prediction is first scaled to fit the conditional one; steps 0 and 1 predict 0."""
    if step <= 1:
        return torch.zeros_like(conditional)
    axes = tuple(range(1, conditional.ndim))
    overlap = (conditional * unconditional).sum(axes, keepdim=True)
    fit = overlap / (unconditional.square().sum(axes, keepdim=True) + 1e-8)
    return cfg(conditional, fit * unconditional, scale)


@dataclass
class Apg:
    """Adaptive projected guidance; one object per sampling run, since it remembers what it was shown."""

    momentum: float = -0.75
    """Weight of the running difference; 0 remembers nothing."""
    eta: float = 0.0
    """Weight of the part of the difference that is parallel to the conditional prediction."""
    threshold: float = 2.5
    """Largest norm of the difference in a channel; 0 is no limit."""
    frames: int | None = None
    """Frames that the threshold is for: it grows with the square root of the length. None: the same for any length."""
    _running: Tensor | None = field(default=None, init=False)

    def __call__(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        return conditional + (scale - 1) * self.direction(conditional - unconditional, conditional)

    def direction(self, difference: Tensor, conditional: Tensor) -> Tensor:
        """What is kept of the difference that a condition makes: remembered, limited, across the prediction itself."""
        precise = torch.float32 if conditional.device.type == "mps" else torch.float64  # mps has no float64
        difference = self._limit(self._remember(difference)).to(precise)
        kept = difference - (1 - self.eta) * _parallel(difference, conditional.to(precise))
        return kept.to(conditional.dtype)

    def _remember(self, difference: Tensor) -> Tensor:
        if self._running is not None:
            difference = difference + self.momentum * self._running
        self._running = difference
        return difference

    def _limit(self, difference: Tensor) -> Tensor:
        if self.threshold <= 0:
            return difference
        threshold = self.threshold * ((difference.shape[-1] / self.frames) ** 0.5 if self.frames else 1.0)
        norm = difference.norm(dim=EACH_CHANNEL, keepdim=True)
        return difference * (threshold / norm).clamp(max=1.0)


def keep_all(difference: Tensor, conditional: Tensor) -> Tensor:
    """The leg of plain guidance: the whole difference."""
    return difference


def apg_double(
    full: Tensor, partial: Tensor, none: Tensor, legs: tuple[Leg, Leg], *, partial_scale: float, full_scale: float
) -> Tensor:
    """cfg_double with each leg's difference treated by a rule of its own, such as Apg().direction."""
    first, second = legs
    return add_leg(full + (partial_scale - 1) * first(partial - none, full), full, partial, second, full_scale)


def add_leg(guided: Tensor, full: Tensor, partial: Tensor, leg: Leg, scale: float) -> Tensor:
    """Guidance over one more condition: on from `guided` along what it changes, from `partial` to `full`."""
    return guided + (scale - 1) * leg(full - partial, full)


def _parallel(difference: Tensor, conditional: Tensor) -> Tensor:
    """The part of `difference` along `conditional`, per item and channel."""
    direction = conditional / conditional.norm(dim=EACH_CHANNEL, keepdim=True).clamp(min=1e-12)
    return (difference * direction).sum(EACH_CHANNEL, keepdim=True) * direction


def guidance_interval(steps: int, fraction: float) -> range:
    """The steps to guide: the middle `fraction` of `steps`; elsewhere the conditional prediction stands alone."""
    return range(int(steps * ((1 - fraction) / 2)), int(steps * (fraction / 2 + 0.5)))


def noise_interval(sigmas: Tensor, interval: tuple[float, float]) -> frozenset[int]:
    """The steps that start at a noise level within [low, high]; sigmas [steps + 1]."""
    low, high = interval
    return frozenset(step for step, sigma in enumerate(sigmas[:-1].tolist()) if low <= sigma <= high)


def decayed_scale(step: int, interval: range, *, scale: float, minimum: float, decay: float) -> float:
    """Guidance scale at `step`: it falls linearly over `interval`, by decay 1 from `scale` down to `minimum`."""
    progress = (step - interval.start) / max(1, len(interval) - 1)
    return scale - (scale - minimum) * decay * progress

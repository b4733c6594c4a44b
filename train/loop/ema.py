"""A moving average of the trained weights, which adapters hold instead of the last ones."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average <- decay * average + (1 - decay) * weight, after each optimiser step."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.averages = {name: weight.detach().clone() for name, weight in weights.items()}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the weights after a step."""
        for name, weight in weights.items():
            self.averages[name] = self.averages[name].to(weight.device).lerp_(weight.detach(), 1 - self.decay)

    @contextmanager
    def applied(self, weights: Mapping[str, Tensor]) -> Generator[None]:
        """Within the block `weights` hold the averages."""
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            _write(weights, self.averages)
            yield
        finally:
            _write(weights, kept)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])

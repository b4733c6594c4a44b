"""A moving average of the trained weights, which adapters hold instead of the last ones."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average <- d * average + (1 - d) * weight after optimiser step n + 1; d is `decay`.

    With `warmup` d is at most (1 + n) / (10 + n): the first weights, which are no more than how training began, soon
    count for nothing.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float, *, warmup: bool = False) -> None:
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.averages = {name: weight.detach().clone() for name, weight in weights.items()}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        for name, weight in weights.items():
            self.averages[name] = self.averages[name].to(weight.device).lerp_(weight.detach(), 1 - decay)
        self.updates += 1

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

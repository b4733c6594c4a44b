import pytest
import torch

from train.loop.ema import Ema


def averaged(values: list[float], decay: float, *, warmup: bool) -> list[float]:
    """The average after each of `values`, of a weight that began as 0."""
    ema, found = Ema({"weight": torch.zeros(1)}, decay, warmup=warmup), []
    for value in values:
        ema.update({"weight": torch.tensor([value])})
        found.append(ema.averages["weight"].item())
    return found


def test_without_warm_up_the_decay_is_the_same_at_every_step():
    assert averaged([1.0, 1.0, 2.0], 0.5, warmup=False) == [0.5, 0.75, 1.375]


def test_with_warm_up_the_decay_rises_to_its_own():
    expected, average = [], 0.0
    for n in range(40):
        decay = min(0.6, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * (n + 1.0)
        expected.append(average)
    assert averaged([n + 1.0 for n in range(40)], 0.6, warmup=True) == pytest.approx(expected)
    assert averaged([1.0] * 30, 0.999, warmup=True)[-1] > 1 - 1e-6, "the beginning is forgotten"
    assert averaged([1.0] * 30, 0.999, warmup=False)[-1] < 0.03

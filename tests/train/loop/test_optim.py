import importlib.util
import sys

import pytest
import torch

from common.errors import UserError
from train.config import TrainingConfig
from train.loop.optim import make_optimizer, rate_at

PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def wanted(optimizer):
    return TrainingConfig(optimizer=optimizer, learning_rate=1.0 if optimizer == "prodigy" else 1e-2)


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        *(
            pytest.param(
                name,
                marks=pytest.mark.skipif(
                    importlib.util.find_spec(package) is None, reason=f"{package} is an extra: optimizers"
                ),
            )
            for name, package in PACKAGES.items()
        ),
    ],
)
def test_every_optimizer_learns_from_a_rate_of_zero_up_and_goes_on_from_its_state(optimizer, tmp_path):
    def model(start):
        parameter = torch.nn.Parameter(start.clone())
        made = make_optimizer([parameter], wanted(optimizer))
        return parameter, made, torch.optim.lr_scheduler.LambdaLR(made, lambda step: rate_at(step, 2, 10**6))

    def step(parameter, made, schedule):
        made.zero_grad()
        parameter.square().sum().backward()
        made.step()
        schedule.step()

    start = torch.linspace(0.5, 1.5, 8192)  # bitsandbytes leaves tensors under 4096 numbers in 32 bits
    one = model(start)
    step(*one)
    assert torch.equal(one[0], start)
    for _ in range(60):
        step(*one)
    assert one[0].square().sum() < 0.9 * start.square().sum()

    torch.save([part.state_dict() for part in one[1:]], tmp_path / "state")
    other = model(one[0].detach())
    for part, state in zip(other[1:], torch.load(tmp_path / "state", weights_only=True), strict=True):
        part.load_state_dict(state)
    for pair in (one, other):
        step(*pair)
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("optimizer", PACKAGES)
def test_a_missing_package_is_named_with_the_way_to_it(optimizer, monkeypatch):
    package = PACKAGES[optimizer]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        make_optimizer([torch.nn.Parameter(torch.zeros(1))], wanted(optimizer))
    assert str(caught.value) == (
        f"optimizer {optimizer}: {package} is not installed. Install it (uv sync --extra optimizers), or set "
        "optimizer to adamw."
    )


def test_the_rate_rises_from_zero_then_falls_to_zero():
    assert [rate_at(step, 4, 12) for step in (0, 1, 4, 8, 12, 13)] == [0.0, 0.25, 1.0, 0.5, 0.0, 0.0]
    assert rate_at(0, 0, 10) == 1.0

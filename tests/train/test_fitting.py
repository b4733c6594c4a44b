"""Training goes on where it was cut off, as if it had not been."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.config import Config
from common.errors import UserError
from train import fitting
from train.fitting import Draws, TrainingSettings, fit

SETTINGS = TrainingSettings(steps=60, batch=4, learning_rate=1e-2, warmup_steps=5)


class About(Config):
    training: TrainingSettings = SETTINGS


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))


class Sums:
    """Learn to sum three numbers; the process dies at step `dies_at`."""

    def __init__(self, net: nn.Module, dies_at: int | None = None) -> None:
        self.net, self.dies_at, self.calls = net, dies_at, 0

    def __call__(self, draws: Draws) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        numbers = torch.from_numpy(draws.numpy.normal(size=(SETTINGS.batch, 3))).float()
        noise = 0.01 * torch.randn(SETTINGS.batch, generator=draws.torch)
        return {"square": (self.net(numbers)[:, 0] - numbers.sum(1) + noise).square().mean()}


def train(folder, dies_at=None, about=None):
    net = network()
    return fit(folder, net, Sums(net, dies_at), SETTINGS, about=about or About(), seed=7), net


@pytest.fixture(autouse=True)
def _saves_often(monkeypatch):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", 0.0)


@pytest.mark.parametrize("dies_at", [3, 26, 40, 59])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, dies_at):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", dies_at)
    with (tmp_path / "cut" / "losses.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 25, "sec')  # the kill came in the middle of a line
    resumed, _ = train(tmp_path / "cut")
    whole, _ = train(tmp_path / "whole")
    cut_weights, weights = load_file(resumed.weights), load_file(whole.weights)
    assert cut_weights.keys() == weights.keys()
    assert all(torch.equal(cut_weights[name], weights[name]) for name in weights)
    assert resumed.losses == whole.losses
    assert [json.loads(line)["step"] for line in (tmp_path / "cut" / "losses.jsonl").open()] == [25, 50, 60]


def test_it_learns_and_leaves_the_average_in_the_network(tmp_path):
    trained, net = train(tmp_path)
    numbers = torch.randn(100, 3, generator=torch.Generator().manual_seed(2))
    assert (net(numbers)[:, 0] - numbers.sum(1)).square().mean() < 0.5 * numbers.sum(1).var()
    assert trained.steps == SETTINGS.steps
    assert not net.training
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in load_file(trained.weights).items())


def test_a_finished_run_is_only_read(tmp_path):
    train(tmp_path)
    _, net = train(tmp_path, dies_at=1)
    assert torch.equal(net[0].weight, load_file(tmp_path / "weights.safetensors")["0.weight"])


def test_other_settings_are_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(UserError) as error:
        train(tmp_path, about=About(training=SETTINGS.model_copy(update={"steps": 61})))
    assert str(error.value) == (
        f"{tmp_path}: was begun with other settings (settings.json). Remove the folder, or restore them."
    )


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [SETTINGS.learning_rate_at(step) for step in range(SETTINGS.steps)]
    assert rates[0] == pytest.approx(SETTINGS.learning_rate / 5, rel=1e-2)
    assert max(rates) == rates[4]
    assert rates[-1] < 0.01 * SETTINGS.learning_rate

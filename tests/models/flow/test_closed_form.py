"""A Gaussian world in which the best linear network is known: what each objective and sampler must make of it.

docs/formulation.md, sections 1 and 2.1, whose numbers are expected to 5 %. Nothing here is drawn: vocal, band and noise
are linear in independent unit Gaussians, so a batch that holds one of them per item turns every linear function into
its matrix, and expectations into sums over the batch. K Gaussians, d numbers a clip, n numbers that a network sees.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from models.flow.alternatives import make_objective
from models.flow.conditioning import Objective, VocalSource
from models.flow.sampler import SamplerSettings, integrate
from models.flow.schedule import add_noise, inference_sigmas


@dataclass(frozen=True)
class World:
    """Clips [K, d, 1, 1] by Gaussian: the vocal's first, then d of the band's own, then d of noise."""

    vocal: Tensor
    band: Tensor
    eps: Tensor

    def source(self, strength: float) -> VocalSource:
        ones = torch.ones(len(self.vocal), 1).double()
        return VocalSource(self.vocal, self.vocal, activity=ones, strength=strength * ones[:, 0])


def wide_world() -> World:
    """The world of docs/formulation.md, section 2.1: 64 numbers, the vocal on 8 of them and of unit mean square, the
    band correlated (0.8) with it through 8 others. An eighth of it is enough, since each direction of the vocal does
    the same on its own."""
    d, rho = 8, 0.8
    gaussian = torch.eye(1 + 2 * d).double()
    vocal, band = torch.zeros(2, 1 + 2 * d, d).double()
    vocal[0, 0] = math.sqrt(d)
    band += gaussian[:, 1 : 1 + d]
    band[:, 1] = rho * gaussian[:, 0] + math.sqrt(1 - rho**2) * gaussian[:, 2]
    return World(*(clips[..., None, None] for clips in (vocal, band, gaussian[:, 1 + d :])))


def narrow_world(rho: float = 0.6) -> World:
    """The world of docs/formulation.md, section 1: one number, vocal and band correlated."""
    vocal, own, eps = torch.eye(3).double().reshape(3, 3, 1, 1, 1)
    return World(vocal, rho * vocal + math.sqrt(1 - rho**2) * own, eps)


def seen(shown: Tensor, source: VocalSource, own_path: bool) -> Tensor:
    """[K, n]: what reaches the network, with the vocal on a path of its own where it has one."""
    return torch.cat([shown, source.conditioner_input], dim=1).flatten(1) if own_path else shown.flatten(1)


def best_network(world: World, objective: Objective, source: VocalSource, sigma: Tensor, *, own_path: bool) -> Tensor:
    """Weights [n, d] that minimise the loss at sigma: least squares, as the estimate is affine in the output."""
    state = add_noise(world.band, objective.make_x1(world.eps, source), sigma)
    inputs = seen(objective.network_input(state, sigma, source, world.eps), source, own_path)
    silent = objective.clean_estimate(state, torch.zeros_like(state), sigma)
    gain = objective.clean_estimate(torch.zeros_like(state), torch.ones_like(state), sigma)
    wanted = ((world.band - silent) / gain).flatten(1)
    return torch.linalg.lstsq(inputs.T @ inputs, inputs.T @ wanted, driver="gelsd").solution


def training_loss(
    world: World, objective: Objective, source: VocalSource, sigma: Tensor, weights: Tensor, *, own_path: bool
) -> Tensor:
    """Mean squared error of the clean estimate, as training has it, of a linear network with weights [n, d]."""
    state = add_noise(world.band, objective.make_x1(world.eps, source), sigma)
    inputs = seen(objective.network_input(state, sigma, source, world.eps), source, own_path)
    estimate = objective.clean_estimate(state, (inputs @ weights).view_as(state), sigma)
    return (estimate - world.band).square().sum() / world.band[0].numel()


def sampled(world: World, objective: Objective, *, own_path: bool, strength: float = 1.0, steps: int = 400) -> Tensor:
    """What our sampler makes with the best network at every sigma, [K, d]."""
    source = world.source(strength)

    def predict(state: Tensor, sigma: Tensor, step: int) -> Tensor:
        weights = best_network(world, objective, source, sigma, own_path=own_path)
        shown = objective.network_input(state, sigma, source, world.eps)
        output = (seen(shown, source, own_path) @ weights).view_as(state)
        return objective.velocity(state, output, sigma)

    def no_noise() -> Tensor:
        raise AssertionError("euler draws no noise")

    start, sigmas = objective.make_x1(world.eps, source), inference_sigmas(steps, shift=1.0)
    settings = SamplerSettings(omega_scale=0.0)
    return integrate(predict, start, sigmas, settings, renoise=no_noise).flatten(1)


@dataclass(frozen=True)
class Outcome:
    """The columns of docs/formulation.md, section 2.1."""

    adherence: float
    leak_db: float
    total: float
    conditional: float


def outcome(world: World, made: Tensor) -> Outcome:
    band, vocal = world.band.flatten(1), world.vocal.flatten(1)
    leak = float((made[0, 0] / vocal[0, 0]).abs())
    return Outcome(
        adherence=float(made[0, 1] / band[0, 1]),
        leak_db=20 * math.log10(max(leak, 1e-12)),
        total=float(made.square().sum() / band.square().sum()),
        conditional=float(made[1:].square().sum() / band[1:].square().sum()),
    )


def close(expected: float):
    return pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("a_max", "adherence", "leak_db", "conditional"),
    [
        (0.25, 0.28, -14.3, 1.03),
        (0.50, 0.64, -12.4, 0.98),
        (0.70, 0.81, -12.4, 0.96),
        (0.85, 0.91, -12.8, 0.95),
        (0.95, 0.97, -13.1, 0.94),
    ],
)
def test_a_bridge_alone_follows_the_vocal_by_half_and_leaks(a_max, adherence, leak_db, conditional):
    world = wide_world()
    found = outcome(world, sampled(world, make_objective("bridge_vp", a_max=a_max), own_path=False))
    assert found.adherence == close(adherence)
    assert found.leak_db == close(leak_db)
    assert found.total == close(0.99)
    assert found.conditional == close(conditional)


@pytest.mark.parametrize("a_max", [0.0, 0.3, 0.7, 0.95])
def test_a_network_that_sees_the_vocal_is_right_at_any_mixture(a_max):
    world = wide_world()
    found = outcome(world, sampled(world, make_objective("bridge_vp", a_max=a_max), own_path=True))
    assert found.adherence == close(1.0)
    assert found.leak_db < -100
    assert found.total == close(0.99)
    assert found.conditional == close(0.99)


@pytest.mark.parametrize(
    ("a_max", "adherence", "leak_db", "conditional"),
    [(0.25, 0.39, -13.4, 1.02), (0.5, 0.82, -12.4, 0.96), (0.75, 0.96, -13.1, 0.94)],
)
def test_lerp_is_the_bridge_of_another_mixture(a_max, adherence, leak_db, conditional):
    world = wide_world()
    found = outcome(world, sampled(world, make_objective("bridge_lerp", a_max=a_max), own_path=False))
    assert found.adherence == close(adherence)
    assert found.leak_db == close(leak_db)
    assert found.total == close(0.99)
    assert found.conditional == close(conditional)


@pytest.mark.parametrize(
    ("weight", "strength", "adherence", "leak_db", "total", "conditional"),
    [
        ("1-s", 0.5, 0.34, -27.5, 0.94, 1.02),
        ("1-s", 1.0, 0.61, -39, 0.94, 0.98),
        ("1-s", 2.0, 0.79, -37, 0.94, 0.97),
        ("s", 0.5, 0.45, -28.6, 1.06, 1.13),
        ("s", 1.0, 0.73, -38, 1.06, 1.11),
        ("s", 2.0, 0.89, -42, 1.06, 1.07),
        ("1", 0.5, 0.72, -60, 0.995, 1.04),
        ("1", 1.0, 0.91, -60, 0.995, 1.01),
        ("1", 2.0, 0.98, -60, 0.995, 1.00),
    ],
)
def test_an_offset_on_a_clean_state_follows_and_hardly_leaks(weight, strength, adherence, leak_db, total, conditional):
    world = wide_world()
    objective = make_objective("offset", offset_weight=weight)
    found = outcome(world, sampled(world, objective, own_path=False, strength=strength))
    assert found.adherence == close(adherence)
    assert found.total == close(total)
    assert found.conditional == close(conditional)
    if weight == "1":  # "about -60" for all three
        assert found.leak_db < -55
    else:
        assert found.leak_db == close(leak_db)


@pytest.mark.parametrize("a_max", [0.25, 0.9])
def test_in_one_dimension_a_deaf_bridge_correlates_by_its_mixture_whatever_the_data_say(a_max):
    made = sampled(narrow_world(), make_objective("bridge_vp", a_max=a_max), own_path=False)[:, 0]
    assert float(made[0] / made.norm()) == close(a_max)


@pytest.mark.parametrize("steps", [10, 60])
def test_naive_collapses_to_the_mean_of_all_bands(steps):
    """Right would be: std 1, conditional std 0.8, correlation 0.6."""
    made = sampled(narrow_world(), make_objective("naive"), own_path=False, steps=steps)[:, 0]
    assert float(made.norm()) == close(0.60)
    assert float(made[1:].norm()) < 0.003
    assert float(made[0] / made.norm()) == close(1.0)


def test_the_loss_of_naive_is_stuck_where_that_of_the_bridge_vanishes():
    def left(objective: Objective) -> float:
        world, sigma = narrow_world(), torch.tensor(0.01).double()
        best = best_network(world, objective, world.source(1.0), sigma, own_path=False)
        return float(training_loss(world, objective, world.source(1.0), sigma, best, own_path=False))

    assert left(make_objective("naive")) == close(1 - 0.6**2)
    assert left(make_objective("bridge_vp")) < 1.1e-4


@pytest.mark.parametrize("name", ["bridge_vp", "bridge_lerp", "offset", "naive"])
@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("own_path", [True, False])
def test_the_network_sampled_from_is_a_minimum_of_the_loss(name, sigma, own_path):
    world, objective, at = wide_world(), make_objective(name), torch.tensor(sigma).double()
    source = world.source(1.0)
    best = best_network(world, objective, source, at, own_path=own_path).requires_grad_()
    training_loss(world, objective, source, at, best, own_path=own_path).backward()
    assert best.grad is not None
    assert best.grad.abs().max() < 1e-9

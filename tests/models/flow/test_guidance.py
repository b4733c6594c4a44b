"""Guidance: upstream's numbers, and what each rule must do whatever the numbers."""

import pytest
import torch
from torch import Tensor

from models.flow.guidance import (
    Apg,
    add_leg,
    apg_double,
    cfg,
    cfg_double,
    cfg_zero_star,
    decayed_scale,
    guidance_interval,
    keep_all,
    noise_interval,
)


def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    limit = tolerance * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@pytest.fixture
def numbers(golden):
    return golden("scheduler_guidance")


@pytest.fixture
def pair(numbers) -> tuple[Tensor, Tensor]:
    return numbers.inputs["apg_cond_0"], numbers.inputs["apg_uncond_0"]


def test_apg_is_upstreams_over_several_calls(numbers):
    apg = Apg()
    for call in range(4):
        conditional, unconditional = numbers.inputs[f"apg_cond_{call}"], numbers.inputs[f"apg_uncond_{call}"]
        near(apg(conditional, unconditional, numbers.notes["guidance_scale"]), numbers.expected[f"apg_{call}"], 2e-5)


def test_apg_without_momentum_and_limit_is_upstreams(numbers, pair):
    apg = Apg(momentum=0.0, eta=0.4, threshold=0.0)
    near(apg(*pair, numbers.notes["guidance_scale"]), numbers.expected["apg_no_momentum_eta"], 2e-5)


def test_cfg_is_upstreams(numbers, pair):
    near(cfg(*pair, numbers.notes["guidance_scale"]), numbers.expected["cfg"])


def test_cfg_double_is_upstreams(numbers, pair):
    text_only = numbers.inputs["apg_uncond_1"]
    guided = cfg_double(pair[0], text_only, pair[1], partial_scale=5.0, full_scale=1.5)
    near(guided, numbers.expected["cfg_double"])


@pytest.mark.parametrize("step", [0, 5])
def test_cfg_zero_star_is_upstreams(numbers, pair, step):
    guided = cfg_zero_star(*pair, numbers.notes["guidance_scale"], step=step)
    near(guided, numbers.expected[f"cfg_zero_star_i{step}"])


def test_scale_one_is_the_conditional_prediction(pair):
    assert torch.equal(Apg()(*pair, 1.0), pair[0])
    near(cfg(*pair, 1.0), pair[0])
    near(cfg_zero_star(*pair, 1.0, step=2), pair[0])


def test_cfg_double_with_equal_scales_is_cfg(pair):
    halfway = (pair[0] + pair[1]) / 3
    near(cfg_double(pair[0], halfway, pair[1], partial_scale=4.0, full_scale=4.0), cfg(*pair, 4.0))


def test_apg_double_is_cfg_double_where_apg_is_cfg(pair):
    """Without memory and limit, and with what is parallel kept."""
    plain = (Apg(momentum=0.0, eta=1.0, threshold=0.0).direction, keep_all)
    halfway = (pair[0] + pair[1]) / 3
    scales = {"partial_scale": 5.0, "full_scale": 1.5}
    near(apg_double(pair[0], halfway, pair[1], plain, **scales), cfg_double(pair[0], halfway, pair[1], **scales))


def test_apg_double_of_a_condition_that_changes_nothing_is_apg(numbers):
    one, legs = Apg(), (Apg().direction, Apg().direction)
    for call in range(3):
        full, none = numbers.inputs[f"apg_cond_{call}"], numbers.inputs[f"apg_uncond_{call}"]
        assert torch.equal(apg_double(full, full, none, legs, partial_scale=7.0, full_scale=3.0), one(full, none, 7.0))


def test_apg_of_equal_predictions_is_finite_and_changes_nothing(pair):
    assert torch.equal(Apg()(pair[0], pair[0], 15.0), pair[0])


@pytest.mark.parametrize("rule", [lambda c, u: Apg()(c, u, 15.0), lambda c, u: cfg_zero_star(c, u, 15.0, step=2)])
def test_a_song_is_guided_in_a_batch_as_it_is_alone(pair, rule):
    near(rule(*pair)[1:], rule(pair[0][1:], pair[1][1:]), 1e-6)


def test_the_interval_is_the_middle_of_the_steps():
    assert guidance_interval(60, 0.5) == range(15, 45)
    assert guidance_interval(27, 0.5) == range(6, 20)
    assert guidance_interval(60, 1.0) == range(60)
    assert len(guidance_interval(60, 0.0)) == 0


def test_a_noise_interval_is_the_steps_that_begin_in_it():
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0])
    assert noise_interval(sigmas, (0.7, 1.0)) == {0, 1, 2}
    assert noise_interval(sigmas, (0.8, 0.95)) == {1}
    assert noise_interval(sigmas, (0.0, 0.4)) == frozenset(), "the end of the last step begins none"


def test_a_limit_by_length_allows_a_frame_the_same_in_a_song_of_any_length():
    short = 9 * torch.randn(1, 2, 4, 100, generator=torch.Generator().manual_seed(0))
    across = torch.randn(1, 2, 4, 100, generator=torch.Generator().manual_seed(1))
    long, long_across = short.repeat(1, 1, 1, 24), across.repeat(1, 1, 1, 24)
    by_length = Apg(threshold=2.5, frames=100)
    near(by_length.direction(long, long_across)[..., :100], Apg().direction(short, across))
    fixed = Apg(threshold=2.5).direction(long, long_across)
    near(fixed[..., :100] * 24**0.5, Apg().direction(short, across))


def test_a_leg_goes_on_from_what_is_guided(pair):
    full, partial = pair
    guided = torch.full_like(full, 2.0)
    near(add_leg(guided, full, partial, keep_all, 4.0), guided + 3 * (full - partial))
    assert torch.equal(add_leg(guided, full, full, Apg().direction, 4.0), guided)


def test_the_scale_decays_over_the_interval():
    interval = range(15, 45)
    scales = [decayed_scale(step, interval, scale=15.0, minimum=3.0, decay=1.0) for step in interval]
    assert scales[0] == 15.0
    assert scales[-1] == pytest.approx(3.0)
    assert scales == sorted(scales, reverse=True)
    assert decayed_scale(44, interval, scale=15.0, minimum=3.0, decay=0.0) == 15.0


def test_an_interval_of_one_step_has_no_decay():
    assert decayed_scale(1, range(1, 2), scale=15.0, minimum=3.0, decay=1.0) == 15.0

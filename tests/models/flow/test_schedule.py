"""The schedule: upstream's numbers, and identities in float64."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from common.bases import ACE_STEP_15
from models.flow.schedule import (
    add_noise,
    clean_estimate,
    draw_high_timesteps,
    draw_timesteps,
    euler_step,
    heun_step,
    inference_sigmas,
    omega_gain,
    pingpong_step,
    shift_sigma,
    training_timesteps,
    velocity,
)

SHIFT = 3.0


def near(actual: Tensor, expected: Tensor) -> None:
    limit = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture
def clean(seeded) -> Tensor:
    return torch.randn(2, 8, 16, 5, generator=seeded, dtype=torch.float64)


@pytest.fixture
def noise(seeded, clean) -> Tensor:
    return torch.randn(clean.shape, generator=seeded, dtype=torch.float64)


def test_training_grid_is_upstreams(golden):
    expected = golden("scheduler_guidance").expected
    near(training_timesteps(SHIFT), expected["train_timesteps"])
    near(training_timesteps(SHIFT) / 1000, expected["train_sigmas"])


def test_training_timesteps_are_drawn_as_upstream_draws_them(golden):
    expected = golden("scheduler_guidance").expected
    drawn = draw_timesteps(64, shift=SHIFT, generator=torch.Generator().manual_seed(1110))
    near(drawn, expected["get_timestep"])
    near((drawn / 1000).reshape(-1, 1, 1, 1), expected["get_sd3_sigmas"])


def test_drawn_timesteps_lie_on_the_grid_and_have_median_sigma_three_quarters(seeded):
    drawn = draw_timesteps(20_000, shift=SHIFT, generator=seeded)
    assert torch.isin(drawn, training_timesteps(SHIFT)).all()
    assert drawn.median().item() == pytest.approx(750, abs=5)


@pytest.mark.parametrize("steps", [27, 60])
def test_inference_grid_is_upstreams(golden, steps):
    expected = golden("scheduler_guidance").expected
    sigmas = inference_sigmas(steps, shift=SHIFT)
    near(sigmas, expected[f"sigmas_{steps}"])
    near(sigmas[:-1] * 1000, expected[f"timesteps_{steps}"])


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_inference_grid_falls_from_noise_to_data(steps):
    sigmas = inference_sigmas(steps, shift=SHIFT)
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("case", [0, 1])
def test_audio2audio_of_upstream(golden, case):
    """Its start is less noisy than the first timestep says, which our `sdedit` does not copy."""
    numbers = golden("scheduler_guidance")
    told = numbers.notes["a2a"][case]
    share = 1 - told["ref_audio_strength"]
    sigmas = inference_sigmas(int(share * told["infer_steps"]), shift=SHIFT, sigma_max=share)
    assert len(sigmas) == told["num_steps"] + 1
    near(sigmas, numbers.expected[f"a2a_{case}_sigmas"])
    near(sigmas[:-1] * 1000, numbers.expected[f"a2a_{case}_timesteps"])
    start = add_noise(numbers.inputs["a2a_ref"], numbers.inputs["a2a_noise"], torch.tensor(shift_sigma(share, SHIFT)))
    near(start, numbers.expected[f"a2a_{case}_latents"])


@pytest.mark.parametrize("omega", [10.0, 0.0])
def test_euler_steps_are_upstreams(golden, omega):
    numbers = golden("scheduler_guidance")
    sigmas = inference_sigmas(numbers.notes["step_count"], shift=SHIFT)
    assert omega_gain(omega) == pytest.approx(numbers.notes["omega_after_logistic"][str(omega)])
    state = numbers.inputs["step_sample"]
    for step in range(4):
        predicted = numbers.inputs[f"step_v_{step}"]
        state = euler_step(state, predicted, sigmas[step], sigmas[step + 1], omega=omega, omega_mean="batch")
        if step != 2:  # the golden holds steps 0, 1 and 3
            near(state, numbers.expected[f"step_omega{omega}_i{step}"])


def test_pingpong_step_is_upstreams(golden):
    numbers = golden("scheduler_guidance")
    sigmas = inference_sigmas(4, shift=SHIFT)
    state = numbers.inputs["step_sample"]
    fresh = torch.randn(state.shape, generator=torch.Generator().manual_seed(1109))
    stepped = pingpong_step(state, numbers.inputs["step_v_0"], sigmas[0], sigmas[1], noise=fresh)
    near(stepped, numbers.expected["pingpong_step_0"])


def test_add_noise_is_upstreams_scale_noise(golden):
    numbers = golden("scheduler_guidance")
    sample = numbers.inputs["step_sample"]
    noisy = add_noise(sample, torch.ones_like(sample), numbers.expected["get_timestep"][:2] / 1000)
    near(noisy, numbers.expected["scale_noise"])


def test_the_ends_of_the_path_are_met_exactly(clean, noise):
    assert torch.equal(add_noise(clean, noise, torch.ones(2)), noise)
    assert torch.equal(add_noise(clean, noise, torch.zeros(2)), clean)


def test_one_true_step_leads_back_to_clean(clean, noise):
    sigma = torch.tensor([0.003, 0.7], dtype=torch.float64)
    noisy = add_noise(clean, noise, sigma)
    stepped = euler_step(noisy, velocity(clean, noise), sigma, torch.zeros_like(sigma))
    torch.testing.assert_close(stepped, clean)
    torch.testing.assert_close(clean_estimate(noisy, velocity(clean, noise), sigma), clean)


def test_a_true_step_stays_on_the_path(clean, noise):
    sigma, sigma_next = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    stepped = euler_step(add_noise(clean, noise, sigma), velocity(clean, noise), sigma, sigma_next)
    torch.testing.assert_close(stepped, add_noise(clean, noise, sigma_next))


def test_omega_enlarges_a_step_about_its_mean_and_keeps_the_mean(clean, noise):
    sigma, sigma_next = torch.tensor(0.9), torch.tensor(0.4)
    plain = euler_step(noise, clean, sigma, sigma_next) - noise
    enlarged = euler_step(noise, clean, sigma, sigma_next, omega=10.0) - noise
    axes = (1, 2, 3)
    torch.testing.assert_close(enlarged.mean(axes), plain.mean(axes))
    torch.testing.assert_close(enlarged.std(axes), plain.std(axes) * omega_gain(10.0))


def test_a_song_steps_in_a_batch_as_it_does_alone(clean, noise):
    sigma, sigma_next = torch.tensor(0.9), torch.tensor(0.4)
    together = euler_step(noise, clean, sigma, sigma_next, omega=10.0)
    alone = euler_step(noise[1:], clean[1:], sigma, sigma_next, omega=10.0)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-14)
    of_batch = euler_step(noise, clean, sigma, sigma_next, omega=10.0, omega_mean="batch")
    assert not torch.allclose(of_batch[1:], alone)


def test_a_half_precision_state_is_stepped_in_float32(clean, noise):
    stepped = euler_step(noise.bfloat16(), clean.bfloat16(), torch.tensor(0.9), torch.tensor(0.4))
    assert stepped.dtype == torch.float32


def heun_error(steps: int) -> float:
    """Error at time 0 on dx/ds = x from x(1) = 1, whose answer is 1/e."""
    sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    state = torch.ones(1, dtype=torch.float64)
    for sigma, sigma_next in pairwise(sigmas):
        ahead = euler_step(state, state, sigma, sigma_next)
        state = heun_step(state, state, ahead, sigma, sigma_next)
    return abs(state.item() - math.exp(-1))


def test_heun_is_of_second_order():
    assert heun_error(20) / heun_error(40) == pytest.approx(4, rel=0.1)


def test_pingpong_lands_on_the_path_to_the_fresh_noise(clean, noise):
    fresh = torch.ones_like(noise)
    sigma, sigma_next = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    noisy = add_noise(clean, noise, sigma)
    stepped = pingpong_step(noisy, velocity(clean, noise), sigma, sigma_next, noise=fresh)
    torch.testing.assert_close(stepped, add_noise(clean, fresh, sigma_next))


def test_high_timesteps_are_even_over_the_noisy_end_of_the_grid():
    grid = training_timesteps(SHIFT)
    noisy = grid[grid >= 850]
    drawn = draw_high_timesteps(50_000, shift=SHIFT, generator=torch.Generator().manual_seed(3))
    points, counts = drawn.unique(return_counts=True)
    assert torch.equal(points, noisy.flip(0))
    assert 0.5 < counts.min() * len(points) / 50_000 < counts.max() * len(points) / 50_000 < 1.5


def test_a_grid_whose_ends_stay_is_even_but_for_one_shift():
    plain = inference_sigmas(4, shift=1.0, shifts_ends=False)
    torch.testing.assert_close(plain, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    bent = inference_sigmas(8, shift=3.0, sigma_max=0.5, shifts_ends=False)
    torch.testing.assert_close(bent[[0, -2, -1]], shift_sigma(torch.tensor([0.5, 0.0625, 0.0]), 3.0))


def test_a_base_model_draws_levels_of_its_own():
    """docs/formulation.md, section 9."""
    seeded = torch.Generator().manual_seed(4)
    levels = ACE_STEP_15.noise_levels
    drawn = draw_timesteps(20_000, shift=1.0, generator=seeded, levels=levels["base"]) / 1000
    logits = drawn.logit()
    assert abs(logits.mean() + 0.4) < 0.03
    assert abs(logits.std() - 1) < 0.03
    assert len(drawn.unique()) > 15_000  # no grid
    known = torch.tensor(levels["turbo"].only) * 1000
    turbo = draw_timesteps(4000, shift=1.0, generator=seeded, levels=levels["turbo"])
    assert all(abs((turbo == level).float().mean() - 1 / 8) < 0.03 for level in known)
    high = draw_high_timesteps(400, shift=1.0, generator=seeded, levels=levels["turbo"])
    assert set(high.tolist()) == set(known[known >= 850].tolist())

"""Frames that are kept: put back at every noise level, with the noise end that the path has there. In float64."""

import pytest
import torch
from torch import Tensor

from models.flow.kept import KeptLatents
from models.flow.sampler import SamplerSettings, integrate
from models.flow.schedule import add_noise, inference_sigmas, velocity

SHAPE, ANEW, STEPS = (2, 3, 4, 9), slice(3, 6), 5
OUTSIDE = torch.ones(SHAPE[-1], dtype=torch.bool)
OUTSIDE[ANEW] = False


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(scheduler, kept, predict=lambda state, sigma, step: 3 * state.cos()):
    """From noise 2, by a network that leads elsewhere; pingpong draws noises 10, 11, ..."""
    fresh = iter(range(10, 10 + STEPS))
    settings = SamplerSettings(steps=STEPS, scheduler=scheduler, omega_scale=0.0)
    sigmas = inference_sigmas(STEPS, shift=3.0).double()
    return integrate(predict, drawn(2), sigmas, settings, renoise=lambda: drawn(next(fresh)), kept=kept)


@pytest.mark.parametrize("scheduler", ["euler", "heun", "pingpong"])
def test_kept_frames_lie_on_their_path_at_every_step_and_end_as_they_were(scheduler):
    known, seen = drawn(1), []

    def predict(state, sigma, step):
        x1 = drawn(9 + step) if scheduler == "pingpong" and step else drawn(2)
        seen.append(torch.equal(state[..., OUTSIDE], add_noise(known, x1, sigma)[..., OUTSIDE]))
        return 3 * state.cos()

    result = made(scheduler, KeptLatents(known, ANEW), predict)
    assert seen == [True] * (2 * STEPS - 1 if scheduler == "heun" else STEPS)
    assert torch.equal(result[..., OUTSIDE], known[..., OUTSIDE])
    assert not torch.isclose(result[..., ANEW], known[..., ANEW]).any()


@pytest.mark.parametrize("scheduler", ["euler", "heun", "pingpong"])
def test_where_all_is_made_anew_nothing_is_kept(scheduler):
    assert torch.equal(made(scheduler, KeptLatents(drawn(1), slice(0, 9))), made(scheduler, None))


def test_what_is_made_anew_fits_what_is_kept():
    """A network that knows the song ends on the whole of it."""
    song = drawn(1)
    kept = KeptLatents(torch.where(OUTSIDE, song, torch.nan), ANEW)
    torch.testing.assert_close(made("heun", kept, lambda *_: velocity(song, drawn(2))), song)


@pytest.mark.parametrize(
    ("frames", "anew"),
    [(slice(0, 3), slice(3, 3)), (slice(2, 6), slice(2, 4)), (slice(5, 9), slice(0, 2)), (slice(8, 10), slice(0, 0))],
)
def test_a_window_keeps_what_lies_in_it(frames, anew):
    latents = torch.arange(10.0)[None, None, None]
    cut = KeptLatents(latents, slice(4, 7)).cut(frames)
    assert cut.anew == anew
    assert torch.equal(cut.latents, latents[..., frames])

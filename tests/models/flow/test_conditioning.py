"""How the vocal conditions: one place where noise meets vocal, strength 0 as text2music, items of a batch apart."""

import math

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.latents import LatentStatistics
from models.acestep1.transformer.transformer import Conditions
from models.flow.alternatives import SourceSlot, make_objective
from models.flow.conditioning import (
    TEXT2MUSIC,
    Objective,
    SourceProjection,
    VocalSource,
    add_latent_noise,
    normalise_vocal,
    pack_conditions,
    smooth_activity,
)
from models.flow.schedule import add_noise, draw_timesteps

SHAPE = (2, 8, 16, 7)
OBJECTIVES = [
    TEXT2MUSIC,
    make_objective("bridge_vp", a_max=0.7),
    make_objective("bridge_lerp", a_max=0.7),
    make_objective("offset"),
    make_objective("naive"),
]


@pytest.fixture
def eps() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def source() -> VocalSource:
    generator = torch.Generator().manual_seed(2)
    vocal = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    activity = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    return VocalSource(
        vocal, conditioner_input=vocal, activity=activity, strength=torch.tensor([1.0, 0.4], dtype=torch.float64)
    )


def with_strength(source: VocalSource, *strength: float) -> VocalSource:
    return VocalSource(source.vocal, source.conditioner_input, source.activity, torch.tensor(strength).to(source.vocal))


# Where noise meets vocal


def test_bridge_mixes_by_strength_and_activity(eps, source):
    x1 = make_objective("bridge_vp", a_max=0.7).make_x1(eps, source)
    for item, strength in enumerate((1.0, 0.4)):
        for frame in range(7):
            a = strength * 0.7 * float(source.activity[item, frame])
            expected = a * source.vocal[item, ..., frame] + math.sqrt(1 - a * a) * eps[item, ..., frame]
            torch.testing.assert_close(x1[item, ..., frame], expected)


def test_bridge_keeps_unit_variance_and_lerp_does_not():
    frames = 40_000
    eps, vocal = torch.randn(2, 1, 8, 16, frames // 128, generator=torch.Generator().manual_seed(3))
    source = VocalSource(vocal, vocal, torch.ones(1, frames // 128), torch.ones(1))
    assert make_objective("bridge_vp", a_max=0.5).make_x1(eps, source).std().item() == pytest.approx(1, abs=0.02)
    lerp = make_objective("bridge_lerp", a_max=0.5).make_x1(eps, source)
    torch.testing.assert_close(lerp, 0.5 * vocal + 0.5 * eps)
    assert lerp.std().item() == pytest.approx(math.sqrt(0.5), abs=0.02)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_zero_leaves_the_noise_bit_for_bit(eps, source, objective, dtype):
    silent = with_strength(source, 0.0, 0.0)
    noise = eps.to(dtype)
    x1 = objective.make_x1(noise, VocalSource(*(t.to(dtype) for t in vars(silent).values() if t is not None)))
    assert x1.dtype == dtype
    assert torch.equal(x1, noise)
    assert torch.equal(objective.make_x1(noise, None), noise)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_frames_where_nobody_sings_start_from_pure_noise(eps, source, objective):
    source.activity[:, 2] = 0.0
    assert torch.equal(objective.make_x1(eps, source)[..., 2], eps[..., 2])


@pytest.mark.parametrize("a_max", [1.0, 0.96, -0.1])
def test_a_start_without_noise_is_refused(a_max):
    with pytest.raises(UserError) as refused:
        make_objective("bridge_vp", a_max=a_max)
    assert str(refused.value) == (
        f"a_max: {a_max:g} is outside 0 to 0.95; without noise every accompaniment of a vocal becomes the same one. "
        "Choose 0.3, or 0 for the source projection alone."
    )


def test_the_ends_of_the_range_of_a_max_are_allowed(eps, source):
    assert torch.equal(make_objective("bridge_vp", a_max=0.0).make_x1(eps, source), eps)
    assert not torch.allclose(make_objective("bridge_vp", a_max=0.95).make_x1(eps, source), eps)


def test_a_half_of_the_batch_at_strength_zero_is_text2music(eps, source):
    x1 = make_objective("bridge_vp").make_x1(eps, with_strength(source, 1.0, 0.0))
    assert torch.equal(x1[1], eps[1])
    assert not torch.allclose(x1[0], eps[0])


# What the network is shown, and how its output is read


@pytest.mark.parametrize(("weight", "expected"), [("1-s", 0.75), ("s", 0.25), ("1", 1.0)])
def test_offset_shows_the_vocal_on_a_clean_state(eps, source, weight, expected):
    objective = make_objective("offset", offset_weight=weight)
    shown = objective.network_input(eps, torch.tensor([0.25, 0.25], dtype=torch.float64), source, eps)
    torch.testing.assert_close(shown[0], eps[0] + expected * source.vocal[0])
    torch.testing.assert_close(shown[1], eps[1] + 0.4 * expected * source.vocal[1])


def test_naive_is_shown_the_literal_formula_and_answers_with_clean_itself(eps, source):
    objective, state = make_objective("naive"), torch.full_like(eps, 9.0)
    sigma = torch.tensor([0.25, 0.5], dtype=torch.float64)
    shown = objective.network_input(state, sigma, source, eps)
    torch.testing.assert_close(shown[0], source.vocal[0] * 0.75 * 1.0 + eps[0] * 0.25)
    torch.testing.assert_close(shown[1], source.vocal[1] * 0.5 * 0.4 + eps[1] * 0.5)
    assert objective.clean_estimate(state, eps, sigma) is eps
    torch.testing.assert_close(state - sigma.reshape(2, 1, 1, 1) * objective.velocity(state, eps, sigma), eps)


@pytest.mark.parametrize("objective", OBJECTIVES[:4])
def test_the_true_velocity_of_a_path_estimates_its_clean_end(eps, source, objective):
    clean = torch.full(SHAPE, 0.5, dtype=torch.float64)
    sigma = torch.tensor([0.9, 0.01], dtype=torch.float64)
    x1 = objective.make_x1(eps, source)
    state = add_noise(clean, x1, sigma)
    torch.testing.assert_close(objective.clean_estimate(state, x1 - clean, sigma), clean)
    assert objective.velocity(state, eps, sigma) is eps


# Training


def training_input(objective: Objective, projection: SourceProjection | None, strength: float | None) -> list[Tensor]:
    """What one training step shows the network, drawn as training draws: timesteps, eps, then the latent noise."""
    generator = torch.Generator().manual_seed(9)
    clean = torch.linspace(-1, 1, math.prod(SHAPE)).reshape(SHAPE)
    sigma = draw_timesteps(2, shift=3.0, generator=generator) / 1000
    eps = torch.randn(SHAPE, generator=generator)
    source = None
    if strength is not None:
        vocal = torch.ones(SHAPE)
        noisy = add_latent_noise(vocal, latent_noise=0.1, generator=generator)
        source = VocalSource(vocal, noisy, torch.ones(2, 7), torch.full((2,), strength))
    state = add_noise(clean, objective.make_x1(eps, source), sigma)
    hidden = torch.arange(2 * 7 * 24.0).reshape(2, 7, 24)
    if projection is not None and source is not None:
        hidden = projection.injections(source, 1000 * sigma)[0](hidden)
    return [objective.network_input(state, sigma, source, eps), hidden]


@pytest.mark.parametrize("objective", OBJECTIVES[:4])
def test_training_at_strength_zero_is_text2music(objective):
    projection = SourceProjection(128, 24)
    torch.nn.init.normal_(projection.projection.weight)
    plain = training_input(TEXT2MUSIC, None, None)
    silent = training_input(objective, projection, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(silent, plain, strict=True))
    sung = training_input(objective, projection, 1.0)
    assert not torch.equal(sung[1], plain[1])


def test_latent_noise_has_its_size_and_leaves_the_vocal_alone():
    vocal = torch.zeros(1, 8, 16, 200)
    noisy = add_latent_noise(vocal, latent_noise=0.1, generator=torch.Generator().manual_seed(1))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(add_latent_noise(vocal, latent_noise=0.0, generator=torch.Generator()), vocal)


# The vocal's numbers


def test_normalised_silence_is_zero_and_size_is_one():
    silence = tuple(tuple(float(c + row) for row in range(16)) for c in range(8))
    statistics = LatentStatistics(silence=silence, mean=(0.0,) * 8, std=tuple(float(c + 1) for c in range(8)))
    still = torch.tensor(silence).unsqueeze(-1).expand(8, 16, 5)
    assert torch.equal(normalise_vocal(still, statistics), torch.zeros(8, 16, 5))
    sung = still + torch.arange(1.0, 9.0).reshape(8, 1, 1)
    assert torch.equal(normalise_vocal(torch.stack([sung, still]), statistics)[0], torch.ones(8, 16, 5))


def test_smoothing_spreads_an_onset_evenly_and_stays_within_bounds():
    activity = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    smooth = smooth_activity(activity)
    torch.testing.assert_close(smooth[0], torch.tensor([0.0, 0.0, 0.25, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(smooth[1], torch.tensor([1.0, 1.0, 0.75, 0.25, 0.0, 0.0]))


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_smoothing_leaves_a_steady_voice_alone(frames):
    assert torch.equal(smooth_activity(torch.ones(1, frames)), torch.ones(1, frames))


# The source projection


def test_a_fresh_projection_changes_nothing_and_learns_at_once(source):
    projection = SourceProjection(128, 24).double()
    hidden = torch.randn(2, 7, 24, dtype=torch.float64)
    injected = projection.injections(source, torch.ones(2))[0](hidden)
    assert torch.equal(injected, hidden)
    injected.square().sum().backward()
    gradient = projection.projection.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


def test_the_projection_adds_each_frame_of_its_input_by_strength(source):
    projection = SourceProjection(128, 128).double()
    torch.nn.init.eye_(projection.projection.weight)
    doubled = VocalSource(source.vocal, 2 * source.vocal, source.activity, source.strength)
    added = projection.injections(doubled, torch.ones(2))[0](torch.zeros(2, 7, 128, dtype=torch.float64))
    for item, strength in enumerate((1.0, 0.4)):
        for frame in range(7):
            torch.testing.assert_close(added[item, frame], 2 * strength * source.vocal[item, ..., frame].flatten())


def test_an_injection_keeps_the_dtype_of_the_network(source):
    hidden = torch.zeros(2, 7, 24, dtype=torch.bfloat16)
    assert SourceProjection(128, 24).injections(source, torch.ones(2))[0](hidden).dtype == torch.bfloat16


# Packing


def test_packing_closes_gaps_and_cuts_to_the_longest():
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]]).bool()
    states = torch.arange(12.0).reshape(2, 6, 1)
    packed = pack_conditions(Conditions(states, mask))
    assert packed.states.squeeze(-1).tolist() == [[0, 1, 4], [6, 10, 11]]
    assert packed.mask.tolist() == [[True] * 3] * 2
    uneven = pack_conditions(Conditions(states, mask & (torch.tensor([[0], [1]]) == 1) | (torch.arange(6) == 0)))
    assert uneven.states.squeeze(-1).tolist() == [[0, 0, 0], [6, 10, 11]]
    assert uneven.mask.tolist() == [[True, False, False], [True] * 3]


def test_packing_twice_is_packing_once():
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    once = pack_conditions(Conditions(torch.randn(4, 9, 3), mask))
    twice = pack_conditions(once)
    assert torch.equal(once.states, twice.states)
    assert torch.equal(once.mask, twice.mask)


@torch.no_grad()
def test_an_item_of_a_batch_is_conditioned_as_it_is_alone(golden_transformer):
    """Texts and lyrics of two lengths: padding shifts the lyrics' positions without packing, and not with it."""
    transformer = golden_transformer("transformer")
    generator = torch.Generator().manual_seed(6)
    text_length, lyric_length = (4, 9), (11, 5)
    text = torch.randn(2, 9, 24, generator=generator)
    ids = torch.randint(1, 60, (2, 11), generator=generator)
    masks = [
        torch.arange(n) < torch.tensor(lengths).unsqueeze(1) for n, lengths in ((9, text_length), (11, lyric_length))
    ]
    speaker, timestep = torch.zeros(2, 16), torch.tensor([500.0, 800.0])
    latents = torch.randn(2, 8, 16, 20, generator=generator)
    batch = transformer.encode(text, masks[0], speaker, ids, masks[1])
    packed = transformer.decode(latents, timestep, pack_conditions(batch)).sample
    unpacked = transformer.decode(latents, timestep, batch).sample
    for item in range(2):
        short = slice(item, item + 1)
        texts, lyrics = text_length[item], lyric_length[item]
        alone = transformer.encode(
            text[short, :texts], masks[0][short, :texts], speaker[short], ids[short, :lyrics], masks[1][short, :lyrics]
        )
        expected = transformer.decode(latents[short], timestep[short], pack_conditions(alone)).sample
        torch.testing.assert_close(packed[short], expected, rtol=0, atol=1e-5)
        if item == 0:
            assert (unpacked[short] - expected).abs().max() > 1e-3


def test_a_base_model_without_a_source_slot_is_told_in_one_line(golden_transformer):
    latents = torch.ones(1, 8, 16, 3)
    source = VocalSource(latents, latents, torch.ones(1, 3), torch.ones(1), latents=latents)
    conditions = Conditions(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(UserError) as raised:
        SourceSlot().conditioned(conditions, source, golden_transformer("transformer"))
    assert str(raised.value) == (
        "ace-step-1 has no slot for a source track. Give a checkpoint of a base model that has one."
    )

"""The control encoder: silent when fresh, learning from step 1 on, deaf to the neighbours of a batch and to padding."""

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from models.flow.conditioning import VocalSource
from models.flow.control import ControlEncoder, ControlInjection, cross_norm, rotate, turns_of

FRAMES, WIDTH = 9, 64


@pytest.fixture
def source() -> VocalSource:
    vocal = torch.randn(2, 8, 16, FRAMES, generator=torch.Generator().manual_seed(2))
    return VocalSource(
        vocal, conditioner_input=vocal, activity=torch.ones(2, FRAMES), strength=torch.tensor([1.0, 0.5])
    )


@pytest.fixture
def hidden() -> Tensor:
    return 3 + 2 * torch.randn(2, FRAMES, WIDTH, generator=torch.Generator().manual_seed(3))


TIMESTEP = torch.tensor([700.0, 300.0])


def encoder(
    injection: ControlInjection = "zero", *, scale: float = 1.0, layers: tuple[int, ...] = (0, 2)
) -> ControlEncoder:
    return ControlEncoder(
        frame_values=128,
        depth=2,
        dim=32,
        head_dim=16,
        out_dim=WIDTH,
        blocks=3,
        injection_layers=layers,
        control_injection=injection,
        controlnet_scale=scale,
    )


def trained(control: ControlEncoder) -> ControlEncoder:
    """All weights away from zero."""
    generator = torch.Generator().manual_seed(5)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return control


def added(control: ControlEncoder, source: VocalSource, hidden: Tensor, *, layer: int = 2) -> Tensor:
    return control.injections(source, TIMESTEP)[layer](hidden) - hidden


BOTH = pytest.mark.parametrize("injection", ["zero", "cross_norm"])


@BOTH
def test_a_fresh_encoder_changes_nothing(source, hidden, injection):
    injections = encoder(injection).injections(source, TIMESTEP)
    assert list(injections) == [0, 2]
    assert all(torch.equal(inject(hidden), hidden) for inject in injections.values())


@BOTH
def test_gradients_are_finite_and_reach_the_encoder_from_step_one_on(source, hidden, injection):
    control = encoder(injection)
    optimiser = torch.optim.SGD(control.parameters(), lr=0.1)
    reached = []
    for _ in range(2):
        optimiser.zero_grad()
        outputs = [inject(hidden) for inject in control.injections(source, TIMESTEP).values()]
        (torch.stack(outputs) - 1).square().mean().backward()
        gradients = {name: p.grad for name, p in control.named_parameters() if p.grad is not None}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        reached.append({name for name, gradient in gradients.items() if (gradient != 0).any()})
        optimiser.step()
    assert reached[0] == {"gates"} if injection == "cross_norm" else all(n.startswith("out.") for n in reached[0])
    assert reached[0]
    # with cross_norm a bias is the same for all frames and partly taken out by the mean
    assert reached[1] >= {name for name, _ in control.named_parameters() if name.endswith("weight")}


@BOTH
def test_the_residual_grows_with_strength_and_scale(source, hidden, injection):
    base = added(trained(encoder(injection)), source, hidden)
    assert base.abs().max() > 0.1
    full = VocalSource(source.vocal, source.conditioner_input, source.activity, torch.ones(2))
    at_full = added(trained(encoder(injection)), full, hidden)
    torch.testing.assert_close(base[0], at_full[0])
    torch.testing.assert_close(base[1], 0.5 * at_full[1], rtol=1e-4, atol=1e-5)
    halved = added(trained(encoder(injection, scale=0.5)), source, hidden)
    torch.testing.assert_close(halved, 0.5 * base, rtol=1e-4, atol=1e-5)


@BOTH
def test_strength_zero_adds_nothing(source, hidden, injection):
    mixed = VocalSource(source.vocal, source.conditioner_input, source.activity, torch.tensor([0.0, 1.0]))
    result = trained(encoder(injection)).injections(mixed, TIMESTEP)[0](hidden)
    assert torch.equal(result[0], hidden[0])
    assert not torch.allclose(result[1], hidden[1])


@BOTH
def test_a_song_is_encoded_in_a_batch_as_it_is_alone(source, hidden, injection):
    control = trained(encoder(injection))
    together = control.injections(source, TIMESTEP)[2](hidden)
    alone = VocalSource(source.vocal[1:], source.conditioner_input[1:], source.activity[1:], source.strength[1:])
    torch.testing.assert_close(together[1:], control.injections(alone, TIMESTEP[1:])[2](hidden[1:]))


@BOTH
def test_padding_changes_nothing_on_real_frames(source, hidden, injection):
    control, real = trained(encoder(injection)), 6
    mask = torch.arange(FRAMES).expand(2, -1) < real
    noisy = source.conditioner_input.clone()
    noisy[..., real:] = 50.0
    padded = VocalSource(source.vocal, noisy, source.activity, source.strength, mask)
    cut = VocalSource(
        source.vocal[..., :real], source.conditioner_input[..., :real], source.activity[:, :real], source.strength
    )
    over_padding = control.injections(padded, TIMESTEP)[2](hidden)[:, :real]
    torch.testing.assert_close(
        over_padding, control.injections(cut, TIMESTEP)[2](hidden[:, :real]), rtol=1e-4, atol=1e-4
    )


def test_the_encoder_looks_around_in_time_and_knows_the_timestep(source, hidden):
    control = trained(encoder())
    before = added(control, source, hidden)
    changed = source.conditioner_input.clone()
    changed[..., 0] += 1.0
    moved = added(control, VocalSource(source.vocal, changed, source.activity, source.strength), hidden)
    assert (moved[:, -1] - before[:, -1]).abs().max() > 1e-4
    later = control.injections(source, TIMESTEP / 2)[2](hidden) - hidden
    assert (later - before).abs().max() > 1e-4


def test_the_same_seed_makes_the_same_encoder():
    one, other = encoder(), encoder()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_injections_keep_the_dtype_of_the_network(source, hidden):
    for injection in ("zero", "cross_norm"):
        control = trained(encoder(injection))
        assert control.injections(source, TIMESTEP)[0](hidden.bfloat16()).dtype == torch.bfloat16


# cross_norm


def test_cross_norm_is_upstreams_for_a_control_that_is_not_silent(golden):
    """Upstream adds 1e-12 where we add 1e-5, which is within float32 of the control's own size here."""
    numbers = golden("transformer")
    expected = numbers.expected["cross_norm"]
    ours = cross_norm(numbers.expected["proj_in"], numbers.inputs["controlnet_hidden"], None)
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))


def test_cross_norm_takes_mean_and_size_of_the_hidden_states(hidden):
    control = 0.01 * torch.randn(2, FRAMES, WIDTH)
    matched = cross_norm(hidden, control, None)
    torch.testing.assert_close(matched.mean((1, 2)), hidden.mean((1, 2)))
    torch.testing.assert_close(matched.std((1, 2)), hidden.std((1, 2)), rtol=2e-3, atol=0)


def test_a_silent_control_is_left_out_and_its_gradients_are_finite(hidden):
    control = torch.zeros(2, FRAMES, WIDTH)
    control[1] = torch.randn(FRAMES, WIDTH)
    control.requires_grad_()
    matched = cross_norm(hidden, control, None)
    assert torch.equal(matched[0], torch.zeros(FRAMES, WIDTH))
    matched.square().sum().backward()
    assert control.grad is not None
    assert control.grad.isfinite().all()


# Positions


def test_rotation_keeps_lengths_and_makes_attention_depend_on_distance():
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    turns = turns_of(12, 16, like=query)
    queries, keys = rotate(query.expand(1, 1, 12, 16), turns), rotate(key.expand(1, 1, 12, 16), turns)
    torch.testing.assert_close(queries.norm(dim=-1), query.norm(dim=-1).expand(1, 1, 12), rtol=1e-6, atol=0)
    scores = (queries @ keys.transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[3, 1], scores[9, 7], rtol=0, atol=1e-5)
    assert (scores[3, 1] - scores[3, 0]).abs() > 1e-3


def test_only_distances_in_time_count(source):
    """Two hidden frames in front move every position by two and change nothing."""
    control = trained(encoder())
    behind = torch.nn.functional.pad(source.conditioner_input, (2, 0))
    mask = torch.arange(FRAMES + 2).expand(2, -1) >= 2
    moved = control(behind, TIMESTEP, mask)[:, 2:]
    torch.testing.assert_close(moved, control(source.conditioner_input, TIMESTEP), rtol=1e-4, atol=1e-4)


# Mistakes


def test_a_block_that_the_base_lacks_is_refused():
    with pytest.raises(UserError) as refused:
        encoder(layers=(0, 3))
    assert str(refused.value) == (
        "injection_layers: this base has 3 blocks, 0 to 2; 3 is none of them. Use --set "
        "accompaniment.injection_layers=[0,1]."
    )


def test_a_block_named_twice_is_refused():
    with pytest.raises(UserError) as refused:
        encoder(layers=(0, 0))
    assert str(refused.value) == "injection_layers: [0, 0] names a block twice. Name each block once."


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(UserError) as refused:
        ControlEncoder(frame_values=128, dim=1000, out_dim=WIDTH, blocks=3, injection_layers=(0,))
    assert str(refused.value) == "control_encoder_dim: 1000 is not a multiple of 128; 1536 is the default."

"""The lead sheet encoder: silent when fresh, learning from step 1 on, local in time, deaf to its neighbours."""

from dataclasses import replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from models.flow.conditioning import SourceProjection, VocalSource
from models.flow.lead_sheet import KERNEL_FRAMES, LeadSheetEncoder, VocalAndLeadSheet, vocal_part

Network = TypeVar("Network", bound=torch.nn.Module)
FRAMES, WIDTH, FEATURES = 60, 64, 49
TIMESTEP = torch.tensor([700.0, 300.0])


def encoder(*, layers: tuple[int, ...] = (0, 2), seed: int = 0) -> LeadSheetEncoder:
    return LeadSheetEncoder(
        depth=2, dim=32, features=FEATURES, out_dim=WIDTH, blocks=3, injection_layers=layers, seed=seed
    )


def trained(network: Network) -> Network:
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


@pytest.fixture
def source() -> VocalSource:
    generator = torch.Generator().manual_seed(2)
    vocal = torch.randn(2, 8, 16, FRAMES, generator=generator)
    return VocalSource(
        vocal,
        conditioner_input=vocal,
        activity=torch.ones(2, FRAMES),
        strength=torch.ones(2),
        lead_sheet=torch.rand(2, FRAMES, FEATURES, generator=generator),
        lead_sheet_strength=torch.tensor([1.0, 0.5]),
    )


def added(network, source: VocalSource, *, layer: int = 2) -> Tensor:
    length = source.activity.shape[-1]
    timestep = TIMESTEP[: len(source.activity)]
    return network.injections(source, timestep)[layer](torch.zeros(len(source.activity), length, WIDTH))


def test_fresh_it_adds_nothing_and_its_last_layers_learn_first(source):
    fresh = encoder()
    assert not added(fresh, source).any()
    (added(fresh, source) - 1).square().sum().backward()
    reached = {
        name for name, parameter in fresh.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert reached == {"out.1.weight", "out.1.bias"}
    torch.optim.SGD(fresh.parameters(), lr=1e-3).step()
    (added(fresh, source) - 1).square().sum().backward()
    unreached = {name for name, parameter in fresh.named_parameters() if parameter.grad is None}
    assert unreached == {"out.0.weight", "out.0.bias"}
    assert all(parameter.grad is None or parameter.grad.any() for parameter in fresh.parameters())


def test_its_strength_scales_it_and_without_a_sheet_there_is_nothing(source):
    network = trained(encoder())
    alone = VocalSource(source.vocal, source.vocal, source.activity, source.strength)
    assert network.injections(alone, TIMESTEP) == {}
    whole = added(network, replace(source, lead_sheet_strength=torch.ones(2)))
    torch.testing.assert_close(added(network, source), whole * torch.tensor([1.0, 0.5])[:, None, None])
    assert not added(network, source.without_lead_sheet()).any()


def test_it_looks_no_further_than_its_convolutions(source):
    network, reach = trained(encoder()), 2 * (KERNEL_FRAMES // 2)
    before = added(network, source)
    sheet = source.lead_sheet.clone()
    sheet[:, 30] += 1
    moved = added(network, replace(source, lead_sheet=sheet)) != before
    frames = moved.any(-1).any(0).nonzero().flatten()
    assert frames.tolist() == list(range(30 - reach, 31 + reach))


def test_a_window_is_read_as_it_is_in_the_whole(source):
    network, reach = trained(encoder()), 2 * (KERNEL_FRAMES // 2)
    cut = source.cut(slice(10, 55))
    torch.testing.assert_close(added(network, cut)[:, reach:-reach], added(network, source)[:, 10 + reach : 55 - reach])


def test_padding_changes_nothing(source):
    network, mask = trained(encoder()), torch.arange(FRAMES).expand(2, -1) < 40
    padded = added(network, replace(source, mask=mask))
    torch.testing.assert_close(padded[:, :40], added(network, source.cut(slice(0, 40))))


def test_beside_a_vocal_the_two_add_up(source):
    projection = trained(SourceProjection(128, WIDTH))
    sheet = trained(encoder())
    both = VocalAndLeadSheet(projection, sheet)
    torch.testing.assert_close(
        added(both, source, layer=0), added(projection, source, layer=0) + added(sheet, source, layer=0)
    )
    assert torch.equal(added(both, source), added(sheet, source))
    assert vocal_part(both) is projection
    assert vocal_part(projection) is projection


def test_weights_follow_from_the_seed():
    weights = [encoder(seed=seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["blocks.0.depthwise.weight"], weights[2]["blocks.0.depthwise.weight"])


def test_a_block_that_is_not_there_is_one_line():
    with pytest.raises(UserError) as refused:
        encoder(layers=(0, 3))
    assert str(refused.value) == (
        "injection_layers: this base has 3 blocks, 0 to 2; 3 is none of them. Use --set "
        "accompaniment.injection_layers=[0,1]."
    )

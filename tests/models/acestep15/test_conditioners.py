"""What adds to inputs of blocks does so on ACE-Step 1.5, too, where two latent frames lie under one token."""

import pytest
import torch

from common.bases import ACE_STEP_15
from common.music.features import WIDTH
from models.adapters.conditioning import Conditioning, ControlShape, LeadSheetShape
from models.flow.conditioning import VocalSource
from models.loading.checkpoint import open_transformer

FRAMES = 11  # the last token holds one frame
TIMESTEP = torch.tensor([300.0])
SHEET = LeadSheetShape(depth=1, dim=8, injection_layers=(0, 1))
CONDITIONINGS = {
    "projection": Conditioning(),
    "control": Conditioning(mode="controlnet", control=ControlShape(depth=1, dim=128, injection_layers=(0, 1))),
    "cross_norm": Conditioning(
        mode="controlnet",
        control=ControlShape(depth=1, dim=128, injection_layers=(1,), control_injection="cross_norm"),
    ),
    "lead_sheet": Conditioning(source_projection=False, lead_sheet=SHEET),
}


@pytest.fixture(scope="module")
def network(original_folder):
    return open_transformer(original_folder)


@pytest.fixture(scope="module")
def source():
    generator = torch.Generator().manual_seed(9)
    latents = torch.randn(1, 64, 1, FRAMES, generator=generator)
    sheet = torch.randn(1, FRAMES, WIDTH, generator=generator)
    return VocalSource(
        latents, latents, torch.ones(1, FRAMES), torch.ones(1), lead_sheet=sheet, lead_sheet_strength=torch.ones(1)
    )


def answer(network, conditioner, source) -> torch.Tensor:
    ones = torch.ones(1, 2)
    conditions = network.condition(torch.ones(1, 2, 24), ones, torch.ones(1, 2, 24), ones)
    injections = conditioner.injections(source, TIMESTEP) if conditioner else {}
    return network.decode(torch.ones(1, 64, 1, FRAMES), TIMESTEP, conditions, injections=injections).sample


def trained(conditioner):
    generator = torch.Generator().manual_seed(10)
    with torch.no_grad():
        for parameter in conditioner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return conditioner


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_it_changes_nothing_fresh_or_muted_and_something_trained(network, source, name):
    with torch.no_grad():
        plain = answer(network, None, source)
        conditioner = CONDITIONINGS[name].make_conditioner(network)
        assert torch.equal(answer(network, conditioner, source), plain)
        trained(conditioner)
        assert torch.equal(answer(network, conditioner, source.muted()), plain)
        assert not torch.allclose(answer(network, conditioner, source), plain)


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_gradients_are_the_same_with_checkpointing(network, source, name):
    conditioner = trained(CONDITIONINGS[name].make_conditioner(network))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            network.enable_gradient_checkpointing()
        conditioner.zero_grad()
        answer(network, conditioner, source).square().mean().backward()
        network.disable_gradient_checkpointing()
        gradients.append([parameter.grad for parameter in conditioner.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_a_token_holds_two_frames(network, source):
    conditioner = trained(CONDITIONINGS["projection"].make_conditioner(network))
    added = conditioner.injections(source, TIMESTEP)[0](torch.zeros(1, 6, network.inner_width))
    frames = source.conditioner_input.squeeze(2)[0].T  # [T, C]
    weight = conditioner.projection.weight
    torch.testing.assert_close(added[0, 1], weight @ torch.cat((frames[2], frames[3])))
    torch.testing.assert_close(added[0, 5], weight[:, :64] @ frames[10])
    assert (ACE_STEP_15.block_frames, network.transformer.patch_size) == (2, 2)

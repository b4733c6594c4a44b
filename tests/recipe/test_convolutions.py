"""Convolutions laid out channels last are the same convolutions, forwards and backwards."""

import pytest
import torch
from torch import Tensor, nn

from models.acestep1.transformer.block import GluFeedForward
from recipe.convolutions import lay_channels_last

KINDS = {
    "pointwise": lambda: nn.Conv1d(6, 8, 1),
    "pointwise, without bias": lambda: nn.Conv1d(6, 8, 1, bias=False),
    "depthwise": lambda: nn.Conv1d(6, 6, 7, padding=3, groups=6),
    "grouped, strided and dilated": lambda: nn.Conv1d(6, 8, 5, stride=2, padding=6, dilation=3, groups=2),
    "of few channels, strided and dilated": lambda: nn.Conv1d(2, 4, 7, stride=3, padding=6, dilation=2),
    "of few channels with weight norm": lambda: nn.utils.weight_norm(nn.Conv1d(3, 2, 5, padding=2)),
    "of many taps": lambda: nn.Conv1d(6, 8, 5, padding=2),
    "of padding that copies": lambda: nn.Conv1d(6, 8, 7, padding=3, padding_mode="replicate"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_plain_layer(kind: str) -> None:
    torch.manual_seed(3)
    plain, laid = KINDS[kind](), KINDS[kind]()
    laid.load_state_dict(plain.state_dict())
    lay_channels_last(laid)
    signal = torch.randn(3, plain.in_channels, 40)
    for ours, theirs in zip(value_and_gradients(laid, signal), value_and_gradients(plain, signal), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def value_and_gradients(network: nn.Module, signal: Tensor) -> list[Tensor]:
    leaf = signal.clone().requires_grad_()
    value = network(leaf)
    inputs = [leaf, *network.parameters()]
    return [value, *torch.autograd.grad(value.square().sum(), inputs)]


def test_a_network_keeps_its_weights_and_their_names() -> None:
    network = nn.Sequential(nn.Conv1d(2, 4, 3), nn.SiLU(), nn.Conv1d(4, 2, 1))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lay_channels_last(network)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_transformers_feed_forward_stays_as_it_is() -> None:
    torch.manual_seed(3)
    network, states = GluFeedForward(6, 10), torch.randn(2, 9, 6)
    before = network(states)
    lay_channels_last(network)
    assert torch.equal(network(states), before)

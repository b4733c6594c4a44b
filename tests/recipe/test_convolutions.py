"""Convolutions laid out channels last are the same convolutions, forwards and backwards."""

import pytest
import torch
from torch import Tensor, nn

from recipe.convolutions import lay_channels_last

KINDS = {
    "dilated": lambda: nn.Conv1d(6, 8, 5, padding=6, dilation=3),
    "to one channel": lambda: nn.Conv1d(6, 1, 13, padding=6),
    "strided": lambda: nn.Conv1d(6, 8, 8, stride=4, padding=2),
    "pointwise": lambda: nn.Conv1d(6, 8, 1),
    "depthwise": lambda: nn.Conv1d(6, 6, 7, padding=3, groups=6),
    "without bias": lambda: nn.Conv1d(6, 8, 3, padding=1, bias=False),
    "transposed": lambda: nn.ConvTranspose1d(6, 4, 8, stride=4, padding=2),
    "of padding that copies": lambda: nn.Conv1d(6, 8, 7, padding=3, padding_mode="replicate"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_plain_layer(kind: str) -> None:
    torch.manual_seed(3)
    plain, laid = KINDS[kind](), KINDS[kind]()
    laid.load_state_dict(plain.state_dict())
    lay_channels_last(laid)
    signal = torch.randn(3, 6, 40)
    for ours, theirs in zip(value_and_gradients(laid, signal), value_and_gradients(plain, signal), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def value_and_gradients(network: nn.Module, signal: Tensor) -> list[Tensor]:
    heard = signal.clone().requires_grad_()
    value = network(heard)
    inputs = [heard, *network.parameters()]
    return [value, *torch.autograd.grad(value.square().sum(), inputs)]


def test_a_network_keeps_its_weights_and_their_names() -> None:
    network = nn.Sequential(nn.Conv1d(2, 4, 3), nn.SiLU(), nn.ConvTranspose1d(4, 2, 4, stride=2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lay_channels_last(network)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

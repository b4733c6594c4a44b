"""1-D convolutions with the channels innermost in memory: the same numbers, and a CPU trains them faster.

B clips, C channels, F frames.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = 4
"""Channels of which a plain convolution over many frames is slow: its backward pass takes three times as long."""


def lay_channels_last(network: nn.Module) -> None:
    """Let a network's convolutions over time that are pointwise, grouped or of FEW channels compute so from now on,
    where it is on a CPU.

    Weights and their names stay. Kinds of convolution with a way of their own to compute keep it.
    """
    if next(network.parameters()).device.type != "cpu":
        return
    for module in network.modules():
        own_way = type(module).forward is not nn.Conv1d.forward
        if not isinstance(module, nn.Conv1d) or own_way or module.padding_mode != "zeros":
            continue
        few = module.kernel_size != (1,) and max(module.in_channels, module.out_channels) <= FEW
        if module.groups > 1 or few:
            module.forward = partial(_as_image, module)
        elif module.kernel_size == (1,):
            module.forward = partial(_pointwise, module)


def _pointwise(module: nn.Conv1d, input: Tensor) -> Tensor:
    """[B, C, F] -> [B, C', F] by one matrix."""
    return functional.linear(input.mT, module.weight[..., 0], module.bias).mT


def _as_image(module: nn.Conv1d, input: Tensor) -> Tensor:
    """[B, C, F] -> [B, C', F'] as an image of one row."""
    assert not isinstance(module.padding, str)
    image = input.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    stride, padding, dilation = (1, module.stride[0]), (0, module.padding[0]), (1, module.dilation[0])
    kernel = module.weight.unsqueeze(2)
    return functional.conv2d(image, kernel, module.bias, stride, padding, dilation, module.groups).squeeze(2)

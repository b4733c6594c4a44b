"""1-D convolutions with the channels innermost in memory: the same numbers, and a CPU trains them faster.

B clips, C channels, F frames, K taps of a kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

Pair = tuple[int, int]


def lay_channels_last(network: nn.Module) -> None:
    """Let the 1-D convolutions of a network on a CPU compute so from now on; weights and their names stay."""
    if next(network.parameters()).device.type != "cpu":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.padding_mode == "zeros":
            module.forward = partial(_way_of(module), module)


def _way_of(module: nn.Conv1d | nn.ConvTranspose1d) -> Callable[..., Tensor]:
    if module.groups > 1:
        return _grouped
    return _pointwise if module.kernel_size == (1,) and not module.transposed else _plain


def _pointwise(module: nn.Conv1d, signal: Tensor) -> Tensor:
    """[B, C, F] -> [B, C', F] by one matrix."""
    return functional.linear(signal.mT, module.weight[..., 0], module.bias).mT


def _grouped(module: nn.Conv1d, signal: Tensor) -> Tensor:
    stride, padding, dilation = _pairs(module)
    kernel = module.weight.unsqueeze(2)
    return functional.conv2d(_image(signal), kernel, module.bias, stride, padding, dilation, module.groups).squeeze(2)


def _plain(module: nn.Conv1d | nn.ConvTranspose1d, signal: Tensor) -> Tensor:
    image = _Convolution.apply(_image(signal), module.weight, module.bias, *_pairs(module), module.transposed)
    return image.squeeze(2)


def _image(signal: Tensor) -> Tensor:
    """[B, C, F] -> [B, C, 1, F] with the channels innermost."""
    return signal.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _pairs(module: nn.Conv1d | nn.ConvTranspose1d) -> tuple[Pair, Pair, Pair]:
    """Stride, padding and dilation of the same convolution in two dimensions."""
    assert not isinstance(module.padding, str)
    assert module.output_padding == (0,)
    return (1, module.stride[0]), (0, module.padding[0]), (1, module.dilation[0])


class _Convolution(Function):
    """An ungrouped convolution or transposed convolution of [B, C, 1, F].

    Its own gradient of the kernel, one matrix product per tap, is what makes it worth while: the library's is slow.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.options = stride, padding, dilation, transposed
        return torch.convolution(image, weight.unsqueeze(2), bias, *ctx.options, (0, 0), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        image, weight = ctx.saved_tensors
        stride, padding, dilation, transposed = ctx.options
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_image = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_image = torch.ops.aten.convolution_backward(
                gradient, image, weight.unsqueeze(2), None, *ctx.options, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            few, many = (image, gradient) if transposed else (gradient, image)
            of_weight = _products(few, many, weight.shape[2], stride[1], padding[1], dilation[1])
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_image, of_weight, of_bias, None, None, None, None


def _products(few: Tensor, many: Tensor, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Per tap the sum over frames of few[C, f] · many[C', f·stride + tap·dilation - padding]: [C, C', K]

    few [B, C, 1, F]; many [B, C', 1, F'], with zeros beyond its ends.
    """
    rows, frames = few.squeeze(2), few.shape[-1]
    edge = many.new_zeros(len(many), padding, many.shape[1])
    padded = torch.cat([edge, many.squeeze(2).mT, edge], dim=1)
    starts = range(0, taps * dilation, dilation)
    span = stride * (frames - 1) + 1
    return torch.stack([(rows @ padded[:, start : start + span : stride]).sum(0) for start in starts], dim=-1)

"""A frozen base in 8 bits: weights as integers, one scale per output, and everything computed as before.

N inputs and M outputs of a layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.acestep1.transformer.block import PointwiseConv
from models.protocols import FlowNetwork

LARGEST = 127


class Int8Linear(nn.Linear):
    """A frozen linear layer, 8 bits a weight. PEFT puts adapters on it as on any other."""

    def __init__(self, layer: nn.Linear | PointwiseConv) -> None:
        outputs, inputs = layer.weight.shape[:2]
        super().__init__(inputs, outputs, bias=False, device="meta")
        self.weight, self.scale = rounded(layer.weight.flatten(1))
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """input [..., N] -> [..., M]."""
        made = Product.apply(input, self.weight, self.scale)
        return made if self.bias is None else made + self.bias


class Product(torch.autograd.Function):
    """x [..., N] times the rounded weight [M, N], scaled; keeps the 8-bit weight for the backward pass, not a copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return (functional.linear(x, weight.to(x.dtype)) * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return (gradient * scale).to(gradient.dtype) @ weight.to(gradient.dtype), None, None


def rounded(weight: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """weight [M, N] as int8 [M, N] and float32 scales [M]: off by at most half a scale, 1/254 of a row's largest."""
    exact = weight.detach().float()
    scale = exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    integers = (exact / scale[:, None]).round().to(torch.int8)
    return nn.Parameter(integers, requires_grad=False), nn.Parameter(scale, requires_grad=False)


def to_int8(transformer: FlowNetwork) -> None:
    """Round the linear layers of what `rounded_parts` names, where nearly all weights are; before any adapter.

    Embedders, the timestep's layers and the last layer, few and sensitive, stay as they are.
    """
    for room in transformer.rounded_parts:
        for parent in list(room.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear | PointwiseConv):
                    setattr(parent, name, Int8Linear(layer))

"""A linear layer with adapters, computed in few passes: PEFT's own casts its input, and adds, in float32.

N inputs and M outputs of the layer, R rank.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional


class AdaptedLinear(Linear):
    """PEFT's layer with its weights and names. The update is added inside its matrix product, in the base's dtype."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x [..., N] -> [..., M]."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        other = self.lora_variant or any(self.lora_bias[name] for name in names)
        if self.disable_adapters or self.merged or other or args or kwargs:
            return super().forward(x, *args, **kwargs)
        rows = x.flatten(0, -2)
        fused = x.is_contiguous() or torch.is_grad_enabled()  # otherwise the base rounds twice, and so must this
        made = self.base_layer(rows) if fused else self.base_layer(x).flatten(0, -2)
        for name in names:
            given = self.lora_dropout[name](rows).to(made.dtype)
            low = functional.linear(given, Scaled.apply(self.lora_A[name].weight, self.scaling[name], made.dtype))
            made = made.addmm_(low, self.lora_B[name].weight.to(made.dtype).T)
        return made.unflatten(0, x.shape[:-1])


class Scaled(torch.autograd.Function):
    """A weight times a number, in another dtype, without a copy between."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        ctx.scale, ctx.dtype = scale, weight.dtype
        return torch.mul(weight, scale, out=weight.new_empty(weight.shape, dtype=dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        made = gradient.new_empty(gradient.shape, dtype=ctx.dtype)
        return torch.mul(gradient, ctx.scale, out=made), None, None


def adopt(network: nn.Module) -> None:
    """Let every linear layer of `network` that carries PEFT's adapters compute as `AdaptedLinear` does."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = AdaptedLinear

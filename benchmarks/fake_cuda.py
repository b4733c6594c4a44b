"""A CUDA device that is not there: networks of any size run on it, without numbers, time or memory.

Tensors are torch's fake ones, whose operators check devices and shapes. `Strict` checks what those forgive, and
`backward` is a backward pass in Python: torch's own asks the CUDA driver for its devices.
"""

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup

import models.acestep1.codec.mel

CUDA = torch.device("cuda:0")
aten = torch.ops.aten
ALIKE = {
    aten.mm.default: 2,
    aten.addmm.default: 3,
    aten.addmm_.default: 3,
    aten.bmm.default: 2,
    aten.baddbmm.default: 3,
    aten.convolution.default: 3,
    aten.native_layer_norm.default: 4,
    aten._scaled_dot_product_flash_attention.default: 3,
    aten._scaled_dot_product_efficient_attention.default: 4,
}
"""Operators that want one dtype of their first so many arguments."""


@contextmanager
def fake_cuda() -> Generator[None]:
    """Within the block "cuda" is a device like any other, and every tensor a fake one."""
    with ExitStack() as stack:
        stack.enter_context(
            patch.object(models.acestep1.codec.mel, "mel_tables", _mel_tables)
        )  # torch's own asks for numbers
        stack.enter_context(patch.object(nn.Module, "_apply", _moved))  # torch's swaps tensors, which fake ones refuse
        for name in ("torch.utils._foreach_utils", "torch.optim.optimizer"):
            kinds = [*sys.modules[name]._foreach_supported_types, FakeTensor]
            stack.enter_context(patch.object(sys.modules[name], "_foreach_supported_types", kinds))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(CudaAttention())
        yield


def _mel_tables(device: torch.device) -> models.acestep1.codec.mel.MelTables:
    window = torch.empty(models.acestep1.codec.mel.WINDOW_SAMPLES, device=device)
    filters = torch.empty(models.acestep1.codec.mel.SPECTRUM_BINS, models.acestep1.codec.mel.MEL_BANDS, device=device)
    return models.acestep1.codec.mel.MelTables(window, filters)


class Strict(TorchDispatchMode):
    """Refuses mixed dtypes where CUDA's kernels do, and generators of another device. `tokens` are those of a clip:
    what an operator answers that is asked for a number."""

    def __init__(self, tokens: int = 0) -> None:
        super().__init__()
        self.tokens = tokens

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else self.tokens if args[0].is_cuda else 1.0
        dtypes = {x.dtype for x in args[: ALIKE.get(func, 0)] if isinstance(x, Tensor)}
        if len(dtypes) > 1:
            raise TypeError(f"{func} of {sorted(map(str, dtypes))}")
        made = func(*args, **(kwargs or {}))
        for generator in (x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Generator)):
            devices = {x.device.type for x in tree_leaves(made) if isinstance(x, Tensor)}
            if devices != {generator.device.type}:
                raise TypeError(f"{func}: a generator of {generator.device} draws for {sorted(devices)}")
        return made


class CudaAttention(TorchFunctionMode):
    """Softmax attention as a CUDA device chooses it: flash without a mask in 16 bits, else memory-efficient."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention and args[0].is_cuda:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    if attn_mask is None and query.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(query, key, value, **options)[0]
    if attn_mask is not None:
        hidden = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(attn_mask.logical_not(), -torch.inf)
        attn_mask = hidden.expand(*query.shape[:3], key.shape[2])
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, wants_gradient, **options)[0]


def _moved(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    for child in module.children():
        _moved(child, change)
    for name, old in list(module._parameters.items()):
        if old is not None and (new := change(old)) is not old:
            module._parameters[name] = nn.Parameter(new, old.requires_grad)
    for name, old in list(module._buffers.items()):
        module._buffers[name] = None if old is None else change(old)
    return module


@torch.no_grad()
def backward(root: Any) -> None:
    """Add the gradients of the scalar whose `grad_fn` is `root` to all leaves', as its `backward()` would.

    Nodes run in the order of torch's engine. What each kept is freed once it has run, if nobody else holds the graph.
    """
    (made,) = root._input_metadata
    gradients: dict[Any, list[Tensor | None]] = {root: [torch.ones(made.shape, dtype=made.dtype, device=made.device)]}
    waiting = _parents(root)
    queue = [_Ready(root)]
    del root
    with GraphExecGroup():  # else a checkpointed block would run anew for each tensor that it kept
        while queue:
            node = heapq.heappop(queue).node
            for (below, index), gradient in zip(node.next_functions, _answers(node, gradients.pop(node)), strict=False):
                if below is None:
                    continue
                _add(gradients.setdefault(below, [None] * len(below._input_metadata)), below, index, gradient)
                waiting[below] -= 1
                if not waiting[below]:
                    del waiting[below]
                    heapq.heappush(queue, _Ready(below))


class _Ready:
    """A node whose gradients are complete; later ones of the forward pass come first, leaves before all."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def __lt__(self, other: "_Ready") -> bool:
        return self.node._sequence_nr() > other.node._sequence_nr()


def _parents(root: Any) -> dict[Any, int]:
    """How many edges lead to each node below `root`."""
    counts, found, stack = Counter[Any](), {root}, [root]
    while stack:
        for below, _ in stack.pop().next_functions:
            if below is not None:
                counts[below] += 1
                if below not in found:
                    found.add(below)
                    stack.append(below)
    return dict(counts)


def _answers(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    if all(gradient is None for gradient in gradients):
        return (None,) * len(node.next_functions)
    if hasattr(node, "variable"):  # a leaf
        (gradient,) = gradients
        leaf = node.variable
        leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
        return ()
    made = node.apply(*gradients) if isinstance(node, BackwardCFunction) else node(*gradients)
    return made if isinstance(made, tuple) else (made,)


def _add(held: list[Tensor | None], node: Any, index: int, gradient: Tensor | None) -> None:
    """Add a gradient to those that a node has, in the shape and dtype that its tensor had."""
    if gradient is None:
        return
    wanted = node._input_metadata[index]
    if tuple(gradient.shape) != tuple(wanted.shape):
        gradient = gradient.sum_to_size(wanted.shape)
    gradient, before = gradient.to(wanted.dtype), held[index]
    held[index] = gradient if before is None else before + gradient

"""What operators would ask of a CUDA device, counted: kernels launched, operations, bytes moved, memory held.

A launch is an operator that is no view. Its bytes are its inputs read and its outputs written once, as if no cache
helped; multi-tensor operators are divided into launches as torch's multi_tensor_apply does.
"""

import math
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.fake_cuda import Strict, aten

NO_LAUNCH = {
    aten._unsafe_view.default,
    aten.detach.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.lift_fresh.default,
}
"""Operators that launch nothing and are no views by their schema."""
MORE_LAUNCHES = {
    aten._scaled_dot_product_flash_attention_backward.default: 3,
    aten._scaled_dot_product_efficient_attention_backward.default: 3,
}
CHUNK = 65536
"""Numbers of one tensor that one block of a multi-tensor launch takes."""
MOST_BLOCKS = 320
MOST_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""Tensors of a multi-tensor launch, by the number of lists that it goes through."""
ROUNDED_TO = 512
"""Bytes that torch's allocator hands out at a time."""


@dataclass(frozen=True)
class GpuLimits:
    """What a card sustains at best, from its data sheet."""

    name: str = "A100 40 GB"
    bytes_per_second: float = 1.555e12
    half: float = 312e12
    """Operations a second in bfloat16."""
    tf32: float = 156e12
    """The same of float32 matrices, rounded inside as `train run` allows."""
    launch_seconds: float = 6e-6
    """What Python and torch take to ask for one launch."""


@dataclass
class Counts:
    """Of one piece of work."""

    launches: int = 0
    flop: float = 0.0
    bytes: int = 0
    device_seconds: float = 0.0
    """Each launch bound by its operations or its bytes."""
    by_operator: Counter[str] = field(default_factory=Counter)
    """Bytes of each operator."""
    launches_by_operator: Counter[str] = field(default_factory=Counter)

    def seconds(self, card: GpuLimits) -> float:
        """Bound by the device, or by who asks it."""
        return max(self.device_seconds, self.launches * card.launch_seconds)


class Counting(Strict):
    """Counts what passes on CUDA tensors while it is entered; `peak` is the most bytes held at once."""

    def __init__(self, card: GpuLimits, tokens: int = 0) -> None:
        super().__init__(tokens)
        self.card, self.counts = card, Counts()
        self.held = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def restart(self) -> None:
        """Count anew; what is held stays held."""
        self.counts, self.peak = Counts(), self.held

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        results = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
        if any(x.is_cuda for x in (*given, *results)):
            for result in results:
                self._hold(result)
            if not func.is_view and func not in NO_LAUNCH and func.namespace != "prim":
                self._count(func, args, kwargs or {}, made, given, results)
        return made

    def _count(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any, given: list[Tensor], results: Any
    ) -> None:
        moved = sum(map(bytes_of, given)) + sum(map(bytes_of, results or written(func, args)))
        flop = 0.0
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            flop = formula(*args, **kwargs, out_val=made)
        launches = MORE_LAUNCHES.get(func, 1)
        if "_foreach_" in str(func) or "_fused_adam" in str(func):
            launches = multi_tensor_launches(args)
        if func is aten.convolution.default:  # CUDA adds a bias in a launch of its own, and sorts one-dimensional input
            bias, image = args[2], args[0]
            launches += bias is not None
            moved += 2 * bytes_of(made) if bias is not None else 0
            if image.ndim == 3 and not image.is_contiguous():
                launches, moved = launches + 1, moved + 2 * bytes_of(image)
        fast = self.card.tf32 if any(x.dtype == torch.float32 for x in given) else self.card.half
        counts, name = self.counts, func.overloadpacket.__name__
        counts.launches += launches
        counts.flop += flop
        counts.bytes += moved
        counts.device_seconds += max(flop / fast, moved / self.card.bytes_per_second)
        counts.by_operator[name] += moved
        counts.launches_by_operator[name] += launches

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.is_cuda and storage not in self._known:
            size = math.ceil(storage.nbytes() / ROUNDED_TO) * ROUNDED_TO
            self._known.add(storage)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.held -= size


def bytes_of(tensor: Tensor) -> int:
    """What reading or writing a tensor moves: an expanded one is small."""
    if not tensor.is_cuda:
        return 0
    sizes = (size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return math.prod(sizes) * tensor.element_size()


def written(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """Tensors that an operator without results writes into."""
    places = zip(func._schema.arguments, args, strict=False)
    changed = (given for place, given in places if place.alias_info is not None and place.alias_info.is_write)
    return [x for x in tree_leaves(list(changed)) if isinstance(x, Tensor)]


def multi_tensor_launches(args: tuple[Any, ...]) -> int:
    """Launches that an operator over lists of tensors is divided into."""
    lists = [one for one in args if isinstance(one, (list, tuple)) and one and isinstance(one[0], Tensor)]
    lists = [one for one in lists if one[0].is_cuda]
    tensors = MOST_TENSORS[min(len(lists), max(MOST_TENSORS))]
    launches = blocks = inside = 0
    for tensor in lists[0]:
        inside += 1
        blocks += math.ceil(tensor.numel() / CHUNK)
        while blocks >= MOST_BLOCKS:
            launches, blocks, inside = launches + 1, blocks - MOST_BLOCKS, 1
        if inside == tensors:
            launches, blocks, inside = launches + 1, 0, 0
    return launches + (blocks > 0)

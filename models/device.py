"""The device that networks run on, as the flag --device names it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from common.errors import UserError


def default_device() -> torch.device:
    """What "auto" stands for in every command: cuda where there is one, else the CPU. mps is used where it is named."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(name: str) -> torch.device:
    """The device of a flag --device that names one, or "auto". Raises UserError where it cannot be used."""
    return default_device() if name == "auto" else usable_device(name, choices="auto, cpu, cuda, cuda:1 or mps")


def usable_device(name: str, *, choices: str) -> torch.device:
    """The device of a name, with its index. Raises UserError where it cannot be used, which ends in `choices`."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"--device {name}: cannot be used ({reason}). Use {choices}.") from None


@contextmanager
def whole_float32() -> Generator[None]:
    """Compute float32 as float32 inside the block (or the function that this decorates).

    By itself torch lets recent GPUs round the factors of convolutions to TF32, 10 bits of mantissa.
    """
    cudnn: Any = torch.backends.cudnn
    places = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


@contextmanager
def shapes_alone() -> Generator[None]:
    """Networks made inside the block are on the meta device, and no starting weights are drawn for them.

    Drawing changes nothing there, and takes half the time in which a small network is made.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"]  # as torch.nn.init calls this
        return func(*args, **(kwargs or {}))

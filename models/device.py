"""The device that networks run on, as the flag --device names it."""

import torch

from common.errors import UserError


def default_device() -> torch.device:
    """What "auto" stands for: cuda where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(name: str, *, choices: str) -> torch.device:
    """The device of a name, with its index. Raises UserError where it cannot be used, which ends in `choices`."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"--device {name}: cannot be used ({reason}). Use {choices}.") from None

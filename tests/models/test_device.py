"""One rule for --device; and what Apple's GPUs cannot do is not asked of them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.fake_cuda import fake_cuda
from common.errors import UserError
from models.device import chosen_device, default_device, shapes_alone
from models.flow.guidance import Apg, apg_double

MPS = torch.device("mps")


class NoFloat64(TorchDispatchMode):
    """Refuses float64 on an mps device, as Apple's does."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(
            isinstance(x, Tensor) and x.device.type == "mps" and x.dtype == torch.float64 for x in tree_leaves(made)
        ):
            raise TypeError(f"{func}: the MPS framework doesn't support float64")
        return made


def test_the_guard_notices_float64():
    with fake_cuda(), NoFloat64(), pytest.raises(TypeError, match="float64"):
        torch.empty(2, device=MPS).double()


def test_guidance_needs_no_float64_on_mps():
    with fake_cuda(), NoFloat64():
        full, none = (torch.empty(1, 8, 16, 12, device=MPS) for _ in range(2))
        assert Apg()(full, none, 15.0).dtype == torch.float32
        assert (
            apg_double(
                full, none, none, (Apg().direction, Apg().direction), partial_scale=2.0, full_scale=2.0
            ).device.type
            == "mps"
        )


def test_guidance_on_a_cpu_is_float64_within():
    full, none = torch.randn(2, 1, 8, 16, 12, generator=torch.Generator().manual_seed(0))
    difference = (full - none).double() * (2.5 / (full - none).norm(dim=(-1, -2), keepdim=True)).clamp(max=1.0)
    along = full.double() / full.double().norm(dim=(-1, -2), keepdim=True)
    across = difference - (difference * along).sum((-1, -2), keepdim=True) * along
    torch.testing.assert_close(Apg().direction(full - none, full), across.float(), atol=1e-6, rtol=0)


def test_auto_is_cuda_where_there_is_one_and_never_mps(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert chosen_device("auto") == default_device() == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert chosen_device("auto") == torch.device("cuda")


def test_a_device_that_cannot_be_used_is_one_line():
    with pytest.raises(
        UserError, match=r"^--device tpu9: cannot be used \(.*\)\. Use auto, cpu, cuda, cuda:1 or mps\.$"
    ):
        chosen_device("tpu9")


def test_a_network_of_shapes_alone_has_no_weights_yet():
    with shapes_alone():
        network = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.LayerNorm(4), torch.nn.Linear(4, 5))
    assert all(weight.is_meta for weight in network.parameters())
    assert [tuple(weight.shape) for weight in network.parameters()] == [(4, 2, 3), (4,), (4,), (4,), (5, 4), (5,)]
    assert torch.nn.Linear(4, 5).weight.std() > 0.1

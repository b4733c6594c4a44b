import errno
import pickle

import pytest
import torch

from common.command import command_app, run
from common.errors import UserError
from common.memory import explain_out_of_memory, ran_out

GPU_FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 77.90 GiB memory in use. Of the allocated memory 70 GiB"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(GPU_FULL),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.22 GB, other allocations: 1.1 GB, max allowed: 18)"),
        RuntimeError("unable to mmap 6600000000 bytes from file <x>: Cannot allocate memory (12)"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_ran_out_is_known_whoever_says_so(error):
    assert ran_out(error)
    assert ran_out(pickle.loads(pickle.dumps(error)))
    wrapped = ValueError("the loader failed")
    wrapped.__cause__ = error
    assert ran_out(wrapped)


def test_what_this_machine_says_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert ran_out(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        UserError("raw/: out of memory is the name of a song"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error):
    assert not ran_out(error)
    with pytest.raises(type(error)) as caught, explain_out_of_memory("testing", "--device cpu"):
        raise error
    assert caught.value is error


def test_the_line_says_what_was_asked_what_helps_and_what_is_kept():
    ways = (None, "--precision bf16", "less")
    with pytest.raises(UserError) as caught, explain_out_of_memory("training", *ways, kept=lambda: "Kept."):
        raise torch.OutOfMemoryError(GPU_FULL)
    assert str(caught.value) == (
        "out of memory while training (CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of "
        "79.10 GiB of which 1.20 GiB is free). Kept. What helps, in this order: --precision bf16, less."
    )


def test_no_command_ends_in_a_traceback_when_memory_runs_out(capsys):
    app = command_app("Fills the memory.")

    @app.command()
    def fill() -> None:
        raise torch.OutOfMemoryError(GPU_FULL)

    with pytest.raises(SystemExit) as stopped:
        run(app, [])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory while running this command (CUDA out of memory. Tried to allocate 20")
    assert line.endswith("What helps, in this order: close what else is using it, --device cpu.")

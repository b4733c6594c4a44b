"""Memory that ran out, whoever says so, as one line with the way out."""

import errno
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager

from common.errors import UserError

SAYS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|_alloc_failed|_allocation_failed",
    re.IGNORECASE,
)
"""What CUDA, cuBLAS, cuDNN, MPS, torch on a CPU and the system say of it."""
LONGEST = 300
"""Characters of what was said that are shown."""


def ran_out(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that memory ran out, on a device or of the machine."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, RuntimeError) and SAYS.search(str(error)):
        return True
    return error.__cause__ is not None and ran_out(error.__cause__)


def said_of(error: BaseException) -> str:
    """What was asked for and what there was, in one line, as far as the error knows."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.split(r" (?:Including non-PyTorch|Of the allocated|See documentation|Search for)", text)[0]
    return text[:LONGEST].rstrip(" .")


@contextmanager
def explain_out_of_memory(doing: str, *ways_out: str | None, kept: Callable[[], str] = str) -> Generator[None]:
    """Raises UserError for an error of memory inside the block: what was `doing`, what helps, what is `kept`.

    `ways_out` are flags and advice in the order in which to try them; None stands for one that is taken already.
    `kept` is asked once memory has run out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not ran_out(error):
            raise
        ways, left = ", ".join(way for way in ways_out if way), kept()
        raise UserError(
            f"out of memory while {doing} ({said_of(error)}).{' ' + left if left else ''} "
            f"What helps, in this order: {ways}."
        ) from error

"""What differs between operating systems: no other module asks which one it runs on."""

import ctypes
import sys

FORKS_SAFELY = sys.platform == "linux"
"""Elsewhere the system's own libraries may not be used after a fork."""
OPENS_FOLDERS = sys.platform != "win32"
"""Windows does not, and needs no flush of the names in one."""
MOST_PROCESSES = 61 if sys.platform == "win32" else 1 << 15
"""Processes that one can wait for at a time."""
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1 << 20
"""glibc's name for the size of what it gets from the system by itself, and returns when it is freed."""


def give_memory_back() -> None:
    """Have the C library return every large array to the system as soon as it is freed.

    By itself glibc keeps what is under 32 MiB for later, in pieces that fit the next segment, of another length, badly:
    a process grows with each.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)

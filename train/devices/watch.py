"""No process of a run waits for another that is gone: each watches, and ends with one line when one is lost.

Ranks meet in collectives, which wait without end (or for minutes) for who will not come. The process that started the
others watches them; they watch it.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from common.progress import say

POLL_SECONDS = 0.5
"""How often to look whether all are there."""


@dataclass(frozen=True)
class LostProcess:
    """A process that ended before its time."""

    line: str
    code: int  # exit code of those who miss it


class Watch(threading.Thread):
    """Looks for a loss until `end` is called; then kills what this process started, says so and ends at once."""

    def __init__(self, look: Callable[[], LostProcess | None], started: Sequence[subprocess.Popen] = ()) -> None:
        super().__init__(name="watch", daemon=True)
        self._look, self._started_here = look, started
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            loss = self._look()
            if loss is not None and not self._over.is_set():
                kill_all(self._started_here)
                say(f"error: {loss.line}")
                os._exit(loss.code)

    def end(self) -> None:
        """From now on processes end when they are done."""
        self._over.set()


def lost_rank(processes: Sequence[subprocess.Popen], first: int) -> LostProcess | None:
    """The first of the processes of ranks `first`, `first` + 1, ... that failed, if one did."""
    for rank, process in enumerate(processes, first):
        code = process.poll()
        if code:
            how = f"ended with code {code}" if code > 0 else f"was ended by {_named(-code)}"
            line = f"rank {rank} {how}, and the others cannot go on without it. What was saved before stays: --resume."
            return LostProcess(line, code if code > 0 else 128 - code)
    return None


def lost_leader(leader: psutil.Process, rank: int) -> LostProcess | None:
    """Whether the process that started this one, which is `rank`, is gone."""
    try:
        there = leader.is_running() and leader.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        there = False
    return None if there else LostProcess(f"rank {rank}: the process that started it is gone. It ends too.", 1)


def kill_all(processes: Sequence[subprocess.Popen]) -> None:
    """End processes that may hang in a collective, where nothing else reaches them."""
    for process in processes:
        process.kill()


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

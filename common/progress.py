"""Progress on stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from tqdm import tqdm

PLAIN_LINE_SECONDS = 10.0
"""Least time between two plain lines."""


def say(line: str) -> None:
    """One line for the person watching; stdout is left to results."""
    tqdm.write(line, file=sys.stderr)


class Progress:
    """Counts finished units of one long task; made by `progress`."""

    def __init__(self, bar: tqdm, total: int, what: str, unit: str, done: int) -> None:
        self._bar, self._total, self._what, self._unit = bar, total, what, unit
        self._before = self._done = done
        self._started = self._spoke = time.monotonic()

    def update(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done; `note` (the current song, the loss) stands beside the bar."""
        self._done += units
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)
        now = time.monotonic()
        if self._bar.disable and (now - self._spoke >= PLAIN_LINE_SECONDS or self._done == self._total):
            self._spoke = now
            say(self._plain_line(now - self._started, note))

    def _plain_line(self, seconds: float, note: str) -> str:
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        line = f"{self._what}: {self._done}/{self._total} {self._unit}, {rate:.3g} a second, {left:.0f} s left"
        return f"{line} ({note})" if note else line


@contextmanager
def progress(total: int, what: str, unit: str, *, done: int = 0) -> Generator[Progress]:
    """Show the progress of `total` units of work named `what` while the block runs.

    `done` of them were done before: they tell nothing of how long the others take.
    """
    with tqdm(total=total, desc=what, unit=unit, initial=done, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        yield Progress(bar, total, what, unit, done)

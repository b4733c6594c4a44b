"""What stands on stderr while something long runs."""

import pytest

from common import progress as module
from common.progress import progress


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_plain_line_tells_rate_and_time_left(clock, capsys):
    with progress(100, "train", "steps") as done:
        clock.now += 10
        done.update(20, note="loss 0.5")
    assert capsys.readouterr().err == "train: 20/100 steps, 2 a second, 40 s left (loss 0.5)\n"


def test_what_was_done_before_a_resume_tells_nothing_of_the_rate(clock, capsys):
    with progress(100, "train", "steps", done=60) as done:
        clock.now += 10
        done.update(5)
    assert capsys.readouterr().err == "train: 65/100 steps, 0.5 a second, 70 s left\n"

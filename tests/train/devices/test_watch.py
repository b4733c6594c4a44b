"""Processes that belong together do not wait for one that is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LEADER = """
import os, subprocess, sys, time
from functools import partial
from train.devices.watch import Watch, lost_rank

codes = [{codes}]
started = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
print(*(process.pid for process in started), flush=True)
watch = Watch(partial(lost_rank, started, 1), started)
watch.start()
{then}
"""
FOLLOWER = """
import os, subprocess, sys, time
script = '''
import time, psutil, sys
from functools import partial
from train.devices.watch import Watch, lost_leader
Watch(partial(lost_leader, psutil.Process(int(sys.argv[1])), 1)).start()
print("watching", flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", script, str(os.getpid())], stdout=subprocess.PIPE)
process.stdout.readline()
os.kill(os.getpid(), 9)
"""


def run(script):
    """The process, once it and all that hold its stderr have ended."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize(
    ("fault", "code", "how"),
    [
        ("import sys; sys.exit(2)", 2, "ended with code 2"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was ended by SIGKILL"),
    ],
)
def test_a_lost_rank_ends_all_with_one_line(fault, code, how):
    waits = "import time; time.sleep(600)"
    done = run(LEADER.format(codes=f"{waits!r}, {fault!r}", then="time.sleep(600)"))
    assert (done.returncode, done.stderr) == (
        code,
        f"error: rank 2 {how}, and the others cannot go on without it. What was saved before stays: --resume.\n",
    )


def test_a_lost_leader_ends_who_was_started():
    assert run(FOLLOWER).stderr == "error: rank 1: the process that started it is gone. It ends too.\n"


def test_when_all_are_done_each_ends_with_its_own_code():
    waits = "import sys; sys.stdin.read(); sys.exit(3)"
    then = "watch.end(); [process.wait() for process in started]; time.sleep(1); sys.exit(4)"
    done = run(LEADER.format(codes=f"{waits!r}", then=then))
    assert (done.returncode, done.stderr) == (4, "")

"""Memory of prep is bounded by a segment, not by a song."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("segment.max_seconds=10", "segment.search_seconds=0.5", 'targets=["inst"]')


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own peak is read from /proc")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["stems", pytest.param("song", marks=pytest.mark.slow)])
def test_a_song_five_times_as_long_takes_no_more_memory(form):
    command = [sys.executable, "-m", "benchmarks.prep", "--minutes", "0.5", "2.5", "--form", form]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    one, ratio = (float(found) for found in re.findall(r"MiB, ([\d.]+) x", done.stdout))
    assert one == 1.0
    assert ratio < 1.3, done.stdout

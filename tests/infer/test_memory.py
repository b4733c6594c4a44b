"""Memory of infer is bounded by a window, not by the vocal."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own peak is read from /proc")
@pytest.mark.timeout(1200)
def test_a_vocal_half_as_long_again_as_a_window_takes_hardly_more_memory():
    command = [sys.executable, "-m", "benchmarks.infer", "--minutes", "4", "6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    one, ratio = (float(found) for found in re.findall(r"MiB, ([\d.]+) x", done.stdout))
    assert one == 1.0
    assert ratio <= 1.2, done.stdout

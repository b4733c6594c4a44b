"""Memory of prep is bounded by a segment, not by a song."""

import sys

import pytest

from benchmarks.prep import song_cost
from prep.config import PrepConfig, SegmentConfig


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own peak is read from /proc")
@pytest.mark.parametrize("form", ["stems", pytest.param("song", marks=pytest.mark.slow)])
def test_a_song_six_times_as_long_takes_no_more_memory(form):
    config = PrepConfig(targets=("inst",), segment=SegmentConfig(max_seconds=10.0, min_seconds=1.0, search_seconds=0.5))
    short, long = (song_cost(seconds, config, form=form).bytes for seconds in (12.0, 72.0))
    assert long < 1.3 * short

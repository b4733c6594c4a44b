"""Memory of prep is bounded by a segment, not by a song."""

import sys

import pytest

from benchmarks.prep import song_cost
from prep.config import load_prep_config

SETTINGS = ("segment.max_seconds=5", "segment.search_seconds=0.5", 'targets=["inst"]')


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own peak is read from /proc")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["stems", pytest.param("song", marks=pytest.mark.slow)])
def test_a_song_five_times_as_long_takes_no_more_memory(form, tmp_path):
    config = load_prep_config("prep_base", SETTINGS)
    short, long = (song_cost(seconds, config, form=form, scratch=tmp_path).bytes for seconds in (15.0, 75.0))
    assert long < 1.3 * short

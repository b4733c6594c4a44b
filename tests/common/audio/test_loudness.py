"""Loudness in blocks is the loudness of the whole, as pyloudnorm measures it."""

import math

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audio.loudness import integrated_lufs
from common.audio.wave import loudness_lufs


def music(seconds, rate_hz, *, channels=2, seed=0):
    """Noise that comes and goes, so that both gates have something to leave out."""
    rng, samples = np.random.default_rng(seed), round(seconds * rate_hz)
    swell = np.abs(np.sin(np.arange(samples) / rate_hz)) ** 8 + 1e-5
    return (0.3 * rng.normal(size=(channels, samples)) * swell).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_100, 44_101, 48_000, 192_000])
@pytest.mark.parametrize(("seconds", "channels"), [(0.401, 2), (0.47, 1), (1.0, 2), (13.37, 2), (3.03, 5)])
def test_blocks_measure_what_pyloudnorm_does(rate_hz, seconds, channels):
    wave = music(seconds, rate_hz, channels=channels)
    whole = pyloudnorm.Meter(rate_hz).integrated_loudness(wave.T.astype(np.float64))
    assert loudness_lufs(wave, rate_hz) == pytest.approx(whole, abs=1e-9)


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=9))
def test_it_matters_not_where_blocks_end(seed, sizes):
    wave = music(2.5, 8000, seed=seed)
    ends = [*(end for end in np.cumsum(sizes) if end < wave.shape[1]), wave.shape[1]]
    blocks = np.split(wave, ends[:-1], axis=1)
    cut = integrated_lufs(blocks, 8000, samples=wave.shape[1])
    assert cut == pytest.approx(integrated_lufs([wave], 8000, samples=wave.shape[1]), abs=1e-9)


def test_silence_and_what_lies_under_the_gate_have_none():
    assert loudness_lufs(np.zeros((2, 20_000), np.float32), 44_100) == -math.inf
    assert loudness_lufs(music(3.0, 44_100) * np.float32(1e-5), 44_100) == -math.inf


def test_an_offset_is_taken_off_first():
    wave = music(3.0, 44_100)
    offset = np.full((2, 1), 0.25, np.float32)
    assert loudness_lufs(wave + offset, 44_100, offset=offset) == pytest.approx(loudness_lufs(wave, 44_100), abs=1e-3)

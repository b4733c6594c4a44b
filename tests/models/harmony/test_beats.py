"""Beats of activations whose truth is known."""

import numpy as np
import pytest

from models.harmony.beats import BEATS_PER_BAR, BeatTrack, track_beats

RATE_HZ = 50


def activations(seconds: np.ndarray, places: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that are high within a frame of the beats, and of the downbeats."""
    frames = np.arange(round(length * RATE_HZ))
    beat, downbeat = np.full((2, len(frames)), -3.0)
    for at, place in zip(np.rint(seconds * RATE_HZ).astype(int), places, strict=True):
        beat[at] = 4.0
        downbeat[max(at - 1, 0) : at + 2] = 1.0 if place == 0 else -1.0
    return beat, downbeat


def grid(bpm: float, length: float, offset: float, first_place: int) -> tuple[np.ndarray, np.ndarray]:
    seconds = np.arange(offset, length - 0.02, 60 / bpm)
    return seconds, (first_place + np.arange(len(seconds))) % BEATS_PER_BAR


@pytest.mark.parametrize("bpm", [61.0, 75.0, 97.3, 120.0, 148.0, 181.0])
@pytest.mark.parametrize(("offset", "first_place"), [(0.0, 0), (0.21, 3), (0.3, 2)])
def test_a_steady_grid_is_found(bpm, offset, first_place):
    seconds, places = grid(bpm, 10.0, offset, first_place)
    found = track_beats(*activations(seconds, places, 10.0), RATE_HZ)
    assert found.seconds == pytest.approx(seconds, abs=0.02)
    assert found.places.tolist() == places.tolist()
    assert found.bpm == pytest.approx(bpm, rel=0.01)
    assert found.downbeats == pytest.approx(seconds[places == 0], abs=0.02)
    assert found.confidence > 0.9


def test_beats_go_on_where_nobody_sings():
    seconds, places = grid(100.0, 12.0, 0.3, 0)
    kept = (seconds < 3.2) | (seconds > 8.0)
    found = track_beats(*activations(seconds[kept], places[kept], 12.0), RATE_HZ)
    assert found.seconds == pytest.approx(seconds, abs=0.03)
    assert found.places.tolist() == places.tolist()


def test_a_tempo_may_drift():
    gaps = np.linspace(0.58, 0.62, 18)
    seconds = 0.2 + np.cumsum(gaps) - gaps[0]
    places = np.arange(len(seconds)) % BEATS_PER_BAR
    found = track_beats(*activations(seconds, places, float(seconds[-1]) + 0.3), RATE_HZ)
    assert found.seconds == pytest.approx(seconds, abs=0.04)


@pytest.mark.parametrize("frames", [1, 5, 30, 60])
def test_short_clips_have_few_beats(frames):
    found = track_beats(np.zeros(frames), np.zeros(frames), RATE_HZ)
    assert 1 <= len(found) <= 1 + frames / 15
    assert np.isfinite(found.seconds).all()


def test_edges_part_beats_evenly_and_begin_with_the_clip():
    track = BeatTrack(np.array([0.4, 1.0, 1.6]), np.arange(3), 1.0)
    assert track.edges() == pytest.approx([0.0, 1.0, 1.6, 2.2])
    assert track.edges(2) == pytest.approx([0.0, 0.7, 1.0, 1.3, 1.6, 1.9, 2.2])

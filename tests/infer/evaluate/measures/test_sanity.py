"""Plain facts about a recording, and the names of what is wrong with it; distances between bands."""

import numpy as np
import pytest

from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.diversity import distance_db, mean_distance_db
from infer.evaluate.measures.sanity import faults, measure_sanity

SAMPLES = 44_100


def test_true_bands_have_no_faults(songs):
    for song in songs:
        facts = measure_sanity(song.vocal, song.band, song.band)
        assert faults(facts) == ()
        assert (facts.coverage, facts.length_error_seconds, facts.clipped) == (1.0, 0.0, 0.0)


def test_every_fault_is_named(songs, noises):
    vocal, band = songs[0].vocal, songs[0].band
    broken = {
        "length": band.wave[:, : -2 * 4096],
        "clipped": np.clip(10 * band.wave, -1, 1),
        "dc": band.wave + np.float32(0.05),
        "silent": 0 * band.wave,
        "noise": noises[0].wave,
        "level": 0.01 * band.wave,
    }
    for fault, wave in broken.items():
        assert fault in faults(measure_sanity(vocal, Clip(wave), band)), fault


def test_known_figures():
    random = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLES) / SAMPLES).astype(np.float32)
    left, right = random.standard_normal((2, 2 * SAMPLES)).astype(np.float32)
    mono = measure_sanity(Clip(np.stack([tone, tone])), Clip(0.1 * np.stack([tone, tone])), None)
    assert mono.peak_dbfs == pytest.approx(-20.0, abs=0.01)
    assert mono.over_vocal_db == pytest.approx(-20.0, abs=0.01)
    assert mono.stereo_correlation == pytest.approx(1.0, abs=1e-5)
    assert mono.rolloff_hz == pytest.approx(1000, abs=22)
    assert mono.coverage is None
    wide = measure_sanity(Clip(np.stack([tone, tone])), Clip(0.1 * np.stack([left, right])), None)
    assert wide.stereo_correlation == pytest.approx(0.0, abs=0.02)
    assert wide.flatness == pytest.approx(0.56, abs=0.03)


def test_half_a_band_covers_half_of_the_true_one(songs):
    half = songs[0].band.wave.copy()
    half[:, half.shape[1] // 2 :] = 0
    assert measure_sanity(songs[0].vocal, Clip(half), songs[0].band).coverage == pytest.approx(0.5, abs=0.02)


def test_bands_of_one_kind_are_near_and_others_far(songs, noises, coded):
    band = songs[0].band
    assert mean_distance_db([band, band, Clip(0.5 * band.wave)]) == pytest.approx(0.0, abs=1e-2)
    assert distance_db(band, coded[0]) < distance_db(band, songs[1].band) < distance_db(band, noises[0])

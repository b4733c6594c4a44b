"""Distances of sets: identities, known Gaussians, and the order of sets of bands."""

import numpy as np
import pytest

from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.sets import (
    FeatureScaler,
    adherence,
    frechet_distance,
    frechet_distance_inf,
    kernel_distance,
    set_features,
)

RANDOM_SEED = 3


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(RANDOM_SEED)


def test_a_set_is_at_no_distance_from_itself_also_with_fewer_windows_than_features(random):
    few, many = random.standard_normal((5, 40)), random.standard_normal((200, 6))
    for features in (few, many):
        assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_known_gaussians(random):
    """On one axis it is (m1 - m2)^2 + (s1 - s2)^2; independent axes add up."""
    one = random.standard_normal((20000, 2))
    one = (one - one.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(one.T)).T)
    other = one * (2.0, 0.5) + (3.0, 0.0)
    assert frechet_distance(one, other) == pytest.approx(9.0 + 1.0 + 0.25, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-9)


@pytest.mark.parametrize(
    ("seed", "windows", "others", "features", "known"),
    [(7, 400, 300, 12, 120.519261549775), (8, 60, 50, 128, 17214.017600348823)],
)
def test_frechet_distance_is_that_of_frechet_audio_distance(seed, windows, others, features, known):
    """`known` is what calculate_frechet_distance of frechet-audio-distance 0.3.4 gives, also of covariances without
    full rank.
    """
    random = np.random.default_rng(seed)
    one = random.standard_normal((windows, features)) @ random.standard_normal((features, features))
    other = random.standard_normal((others, features)) @ random.standard_normal((features, features))
    assert frechet_distance(one, other + random.standard_normal(features)) == pytest.approx(known, rel=1e-7)


def test_the_distance_of_an_endless_set_is_read_off_from_its_subsets(random):
    """Between N(0, I) and N(m, s^2 I) it is D (m^2 + (s - 1)^2); of a sample it is larger."""
    reference = random.standard_normal((8000, 16))
    alike, other = random.standard_normal((2, 1200, 16))
    assert frechet_distance(reference, alike) > 0.06
    assert frechet_distance_inf(reference, alike, fewest=200) == pytest.approx(0.0, abs=0.03)
    other = 1.5 * other + 0.3
    known = 16 * (0.3**2 + 0.5**2)
    assert frechet_distance_inf(reference, other, fewest=200) == pytest.approx(known, rel=0.05)
    assert frechet_distance_inf(reference, other, fewest=601) is None


def test_kernel_distance_is_unbiased_and_grows_with_the_shift(random):
    alike = [kernel_distance(*random.standard_normal((2, 40, 5))) for _ in range(60)]
    assert abs(np.mean(alike)) < 3 * np.std(alike) / np.sqrt(len(alike))
    one, other = random.standard_normal((2, 200, 5))
    shifted = [kernel_distance(one, other + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert shifted == sorted(shifted)


def test_adherence_is_1_for_true_pairs_and_0_for_shuffled_ones(random):
    true, shuffled = random.standard_normal((2, 60, 4)) + np.array([0.0, 1.0])[:, None, None]
    assert adherence(true, shuffled, true) == pytest.approx(1.0)
    assert adherence(true, shuffled, shuffled) == pytest.approx(0.0)
    assert 0.0 < adherence(true, shuffled, (true + shuffled) / 2) < 1.0


def test_bands_through_the_codec_are_nearer_to_the_true_set_than_noise(songs, coded, noises):
    scale = FeatureScaler.of(set_features([song.band for song in songs]))
    true, decoded, noise = (scale(set_features(bands)) for bands in ([s.band for s in songs], coded, noises))
    assert frechet_distance(true, true) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(true, decoded) < frechet_distance(true, noise)
    assert kernel_distance(true, decoded) < kernel_distance(true, noise)


def test_mixes_adhere_through_the_codec_but_not_when_bands_are_shuffled(songs, coded, shuffled):
    true, decoded, other = (
        set_features([Clip(song.vocal.wave + band.wave) for song, band in zip(songs, bands, strict=True)])
        for bands in ([song.band for song in songs], coded, shuffled)
    )
    scale = FeatureScaler.of(true)
    figures = [adherence(scale(true), scale(other), scale(candidate)) for candidate in (true, decoded, other)]
    assert figures[0] == pytest.approx(1.0)
    assert figures[2] == pytest.approx(0.0)
    assert figures[1] > figures[2]

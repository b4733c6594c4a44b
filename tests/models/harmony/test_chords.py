"""The decoder of keys and chords against all paths, one by one."""

from itertools import product

import numpy as np
import pytest
from scipy.special import log_expit, logsumexp, softmax

from models.harmony.chords import CHANGE_LOG_ODDS, CHORDS, KEYS, decode_chords
from models.harmony.rules import log_chord_prior

PLACES = np.array([2, 3, 0])


@pytest.fixture(scope="module")
def emissions() -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 2.0, (KEYS, len(PLACES), CHORDS))


@pytest.fixture(scope="module")
def key_prior() -> np.ndarray:
    return np.random.default_rng(1).normal(0.0, 1.0, KEYS)


@pytest.fixture(scope="module")
def paths(emissions, key_prior) -> np.ndarray:
    """Log-probability of every path with every key, unnormalised: [K, S, S, S]."""
    prior = log_chord_prior()
    total = key_prior[:, None, None, None] + (prior + emissions[:, 0])[:, :, None, None]
    for axis, place in ((1, PLACES[1]), (2, PLACES[2])):
        odds = CHANGE_LOG_ODDS[place]
        move = np.exp(log_expit(odds) + prior)[:, None, :] + np.exp(log_expit(-odds)) * np.eye(CHORDS)
        shape = (KEYS, CHORDS, CHORDS, 1) if axis == 1 else (KEYS, 1, CHORDS, CHORDS)
        total = total + np.log(move).reshape(shape)
    return total + emissions[:, 1][:, None, :, None] + emissions[:, 2][:, None, None, :]


def test_the_likeliest_key_and_its_likeliest_chords(emissions, key_prior, paths):
    found = decode_chords(emissions, log_chord_prior(), key_prior, PLACES)
    keys = softmax(logsumexp(paths, axis=(1, 2, 3)))
    assert found.key == keys.argmax()
    assert found.key_confidence == pytest.approx(keys.max())
    best = np.unravel_index(paths[found.key].argmax(), paths.shape[1:])
    assert found.numbers.tolist() == list(best)


def test_confidence_is_the_probability_of_a_chord_whatever_the_key(emissions, key_prior, paths):
    found = decode_chords(emissions, log_chord_prior(), key_prior, PLACES)
    probability = softmax(paths)
    by_beat = [probability.sum(axis=(0, *(axis for axis in (1, 2, 3) if axis != 1 + beat))) for beat in range(3)]
    assert found.confidence == pytest.approx([row[number] for row, number in zip(by_beat, found.numbers, strict=True)])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_draws_follow_the_tempered_probabilities(emissions, key_prior, paths, temperature):
    rng = np.random.default_rng(2)
    drawn = [
        decode_chords(emissions, log_chord_prior(), key_prior, PLACES, temperature=temperature, rng=rng)
        for _ in range(120)
    ]
    probability = softmax(paths / temperature)
    for beat, axes in enumerate(((0, 2, 3), (0, 1, 3), (0, 1, 2))):
        expected = probability.sum(axis=axes)
        counts = np.bincount([one.numbers[beat] for one in drawn], minlength=CHORDS) / len(drawn)
        assert np.abs(counts - expected).max() < 4 * np.sqrt(0.25 / len(drawn))
    keys = np.bincount([one.key for one in drawn], minlength=KEYS) / len(drawn)
    assert np.abs(keys - probability.sum(axis=(1, 2, 3))).max() < 4 * np.sqrt(0.25 / len(drawn))


def test_a_draw_needs_a_generator(emissions, key_prior):
    with pytest.raises(ValueError, match="generator"):
        decode_chords(emissions, log_chord_prior(), key_prior, PLACES, temperature=1.0)


def test_one_beat_is_enough(emissions, key_prior):
    found = decode_chords(emissions[:, :1], log_chord_prior(), key_prior, PLACES[:1])
    assert found.numbers.shape == (1,)


def test_priors_are_probabilities_that_turn_with_the_key():
    prior = np.exp(log_chord_prior())
    assert prior.sum(axis=1) == pytest.approx(1.0)
    for key, chord in product(range(11), range(11)):
        assert prior[key + 1, chord + 1] == pytest.approx(prior[key, chord])

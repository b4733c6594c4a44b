"""The true band is told from another song's and from noise, and keys agree with those that the songs were made in."""

import numpy as np
import pytest

from common.music.chord import TONICS
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import (
    estimate_key,
    key_of,
    key_score,
    measure_harmony,
    rank_of_first,
    transposition_fits,
    z_of_first,
)

CHANCE_RANK = 6.5


def means(songs, bands) -> np.ndarray:
    """Mean z and mean rank."""
    found = [measure_harmony(song.vocal, band) for song, band in zip(songs, bands, strict=True)]
    return np.mean([(harmony.z, harmony.rank) for harmony in found], axis=0)


def test_true_bands_fit_best_then_those_through_the_codec_and_what_is_unrelated_is_at_chance(
    songs, coded, shuffled, noises
):
    true, decoded, other, noise = (means(songs, bands) for bands in ([s.band for s in songs], coded, shuffled, noises))
    assert true[0] >= decoded[0] - 0.1
    assert decoded[0] > max(other[0], noise[0]) + 0.7
    assert max(abs(other[0]), abs(noise[0])) < 0.8
    assert true[1] < 2.0
    assert min(other[1], noise[1]) > 4.5


def test_the_right_transposition_is_among_the_first_three_of_twelve_on_most_songs(songs):
    ranks = [measure_harmony(song.vocal, song.band).rank for song in songs]
    assert np.mean(np.less_equal(ranks, 3)) >= 0.75


def test_keys_of_bands_and_vocals_are_those_of_the_songs_or_their_neighbours(songs):
    bands = [key_score(song.key, estimate_key(song.band)) for song in songs]
    vocals = [key_score(song.key, estimate_key(song.vocal)) for song in songs]
    assert np.mean(bands + vocals) >= 0.75


@pytest.mark.parametrize("tonic", range(12))
def test_a_scale_with_its_triad_has_its_key(tonic):
    notes = np.zeros((12, 1))
    notes[[0, 2, 4, 5, 7, 9, 11], 0] = (3, 1, 2, 1, 2, 1, 1)
    assert key_of(np.roll(notes, tonic, axis=0)) == f"{TONICS[tonic]} major"


def test_a_band_moved_up_by_some_semitones_fits_best_when_it_is_moved_back(songs):
    vocal = songs[0].vocal.chroma
    fits = transposition_fits(vocal, np.roll(vocal, 3, axis=0), songs[0].vocal.active)
    assert int(np.argmax(fits)) == 12 - 3


def test_keys_are_scored_as_at_mirex():
    scores = [key_score("C major", key) for key in ("C major", "G major", "A minor", "C minor", "F# major", None)]
    assert scores == [1.0, 0.5, 0.3, 0.2, 0.0, 0.0]


def test_silence_is_at_chance(songs):
    harmony = measure_harmony(songs[0].vocal, Clip(np.zeros_like(songs[0].vocal.wave)))
    assert (harmony.rank, harmony.z, harmony.key_score) == (CHANCE_RANK, 0.0, 0.0)


def test_rank_and_z_of_known_numbers():
    fits = np.array([2.0, 3.0, 2.0, *[1.0] * 9])
    assert rank_of_first(fits) == 2.5
    assert z_of_first(fits) == pytest.approx((2.0 - fits.mean()) / fits.std())

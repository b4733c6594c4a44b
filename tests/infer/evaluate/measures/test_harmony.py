"""The true band is told from another song's and from noise, and keys agree with those that the songs were made in."""

import numpy as np
import pytest

from common.music.chord import TONICS
from common.music.key import MAJOR_PROFILE
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import (
    estimate_key,
    key_lead,
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


def test_sung_pitches_tell_the_true_band_from_others_better_than_all_that_sounds(songs, shuffled):
    true, other = (
        [measure_harmony(song.vocal, band) for song, band in zip(songs, bands, strict=True)]
        for bands in ([s.band for s in songs], shuffled)
    )
    by_all, by_melody = (
        np.mean([getattr(a, name) - getattr(b, name) for a, b in zip(true, other, strict=True)])
        for name in ("z", "melody_z")
    )
    assert by_melody > by_all > 0
    assert np.mean([found.melody_rank for found in true]) < 2.0


def test_a_band_out_of_tune_keeps_its_harmony_and_is_told_by_its_tuning(songs):
    """Resampled by 40 cents: longer by 2 %, which is cut."""
    vocal, band = songs[0].vocal, songs[0].band
    places = np.arange(band.wave.shape[1]) * 2 ** (-40 / 1200)
    lower = Clip(np.stack([np.interp(places, np.arange(len(side)), side) for side in band.wave]).astype(np.float32))
    apart, right = (measure_harmony(vocal, one) for one in (lower, band))
    assert right.tuning_cents is not None
    assert apart.tuning_cents is not None
    assert right.tuning_cents < 15
    assert 30 < apart.tuning_cents <= 50
    assert apart.melody_rank == right.melody_rank


def test_a_key_leads_by_more_where_a_chroma_is_its_profile():
    certain, unsure = np.zeros((12, 1)), np.zeros((12, 1))
    certain[:, 0] = MAJOR_PROFILE
    unsure[[0, 7], 0] = 1.0  # major or minor
    leads = key_lead(certain), key_lead(unsure)
    assert leads[0] is not None
    assert leads[1] is not None
    assert leads[0] > 2 * leads[1] >= 0
    assert key_lead(np.zeros((12, 4))) is None


def test_silence_is_at_chance(songs):
    harmony = measure_harmony(songs[0].vocal, Clip(np.zeros_like(songs[0].vocal.wave)))
    assert (harmony.rank, harmony.z, harmony.key_score) == (CHANCE_RANK, 0.0, 0.0)
    assert (harmony.melody_rank, harmony.melody_z, harmony.tuning_cents) == (CHANCE_RANK, 0.0, None)


def test_rank_and_z_of_known_numbers():
    fits = np.array([2.0, 3.0, 2.0, *[1.0] * 9])
    assert rank_of_first(fits) == 2.5
    assert z_of_first(fits) == pytest.approx((2.0 - fits.mean()) / fits.std())

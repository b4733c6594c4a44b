"""The ideal listener hears what a vocal tells, and nothing that it does not."""

import numpy as np
import pytest

from infer.evaluate.measures.sheet import chords_of
from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.listener import KNOWN_SEEDS, heard, listen, possible_songs
from prep.made_up.melody import compose
from prep.made_up.truth import lead_sheet_of_truth, tell_truth
from prep.made_up.world import draw_world

WINDOWS = 20
SEEDS = range(HELD_OUT_SEED, HELD_OUT_SEED + 24)


def true_sheet(world):
    return lead_sheet_of_truth(tell_truth(world, compose(world)))


@pytest.fixture(scope="module")
def told():
    worlds = [draw_world(seed, 10.0) for seed in SEEDS]
    return [(world, true_sheet(world), listen(world)) for world in worlds]


def test_it_names_almost_every_key_and_chord_and_another_songs_none(told):
    right = [found.key.signature == true.key.signature for _, true, found in told]
    chords = [np.mean(chords_of(found, WINDOWS) == chords_of(true, WINDOWS)) for _, true, found in told]
    others = [
        np.mean(chords_of(found, WINDOWS) == chords_of(true, WINDOWS))
        for (_, true, _), (_, _, found) in zip(told, [*told[1:], told[0]], strict=True)
    ]
    assert np.mean(right) >= 0.95
    assert np.mean(chords) >= 0.9
    assert np.mean(others) < 0.2


def test_its_bars_are_the_songs_own(told):
    for _, true, found in told:
        np.testing.assert_allclose(found.beat_times()[: len(true.beat_times())], true.beat_times(), atol=2e-3)


def test_the_true_song_is_among_those_that_there_can_be(told):
    songs = list(possible_songs())
    for world, _, _ in told[:6]:
        chords = [world.chord_label(bar.degree) for bar in world.bars[1:]]
        assert any([song.chord(song.degree(bar)).harte for bar in range(len(chords))] == chords for song in songs)


def test_notes_lie_on_the_grid_that_they_were_composed_on_and_no_known_song_judges(told):
    for world, _, _ in told[:6]:
        for note in heard(world):
            assert 0 <= note.bar < len(world.bars) - 1
            if note.is_long or note.eighth % 4 == 0:
                degree = world.bars[note.bar + 1].degree
                assert note.pitch_class in world.triad(degree)
    assert max(KNOWN_SEEDS) < min(SEEDS)

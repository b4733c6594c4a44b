"""The features of a vocal in shards: kept where they are asked for, and added to older shards without encoding."""

import numpy as np
import pytest

from common.music.vocal_features import MIDDLE_MIDI, VocalFeatures
from prep.building.repair import rebuild_damaged
from prep.config import AugmentConfig, PrepConfig, SegmentConfig
from prep.reports.inspect import summary, table
from prep.reports.status import status, survey
from shards.reader import read_manifest, read_song
from shards.verify import verify

PLAIN = PrepConfig(segment=SegmentConfig(max_seconds=3.0, search_seconds=0.9))
WITH = PLAIN.model_copy(update={"vocal_features": True})


@pytest.fixture
def older(tmp_path, song, build):
    """Shards without features of songs a, in two segments, and b."""
    song(tmp_path / "raw", "a", seconds=4.0, seed=1)
    song(tmp_path / "raw", "b", seed=2)
    build(config=PLAIN)
    return tmp_path / "shards"


def test_older_shards_get_them_without_being_encoded_and_keep_them(older, tmp_path, song, build, hashes):
    without = [sample.arrays() for sample in read_song(older, "a")]
    report = build(config=WITH)
    assert (report.encoded, report.embedded) == ((), ())
    for arrays, sample in zip(without, read_song(older, "a"), strict=True):
        assert sample.vocal_features is not None
        for name, array in arrays.items():
            np.testing.assert_array_equal(sample.arrays()[name], array)
    build("anew", config=WITH)
    assert hashes(tmp_path / "anew") == hashes(older)
    assert verify(older) == []
    song(tmp_path / "raw", "c", seed=3)
    build(config=PLAIN)  # later builds need not ask again
    assert summary(older)["vocal_features"] == 3
    assert "features of the vocal: of 3 of 3 songs" in table(older)
    before = hashes(older)
    (older / "shard-000000.tar").write_bytes(b"")
    rebuild_damaged(older, tmp_path / "raw", checkpoint="tiny", devices=["cpu"], ssl_folder=None, workers=1)
    assert hashes(older) == before


def test_they_are_what_is_sung_in_each_segment_and_at_each_pitch(tmp_path, song, build):
    song(tmp_path / "raw", "a", seconds=4.0, seed=1)  # 240 Hz, half a second of every three quarters
    build(config=WITH.model_copy(update={"augment": AugmentConfig(semitones=(0, 3))}))
    for key, higher in (("a", 0), ("a_up3", 3)):
        segments = read_song(tmp_path / "shards", key)
        assert len(segments) == 2
        for sample in segments:
            assert sample.vocal_features is not None
            features = VocalFeatures.unpacked(sample.vocal_features)
            sure = features.confidence > 0.9
            assert 0.4 < sure.mean() < 0.7
            sung = 69 + 12 * np.log2(240 / 440) + higher
            assert np.median(features.midi[sure]) == pytest.approx(round(sung), abs=0.1)  # after the singer's tuning
            assert np.median(sample.vocal_features[0][sure]) == pytest.approx(round(sung) - MIDDLE_MIDI, abs=0.1)


def test_what_is_missing_is_told_and_shards_without_say_nothing_of_it(older, tmp_path):
    assert b"vocal_features" not in (older / "manifest.json").read_bytes()
    assert b"vocal_features" not in (older / "shard-000000.tar").read_bytes()
    found = survey(tmp_path / "raw", older, WITH, checkpoint="tiny", devices=["cpu"], ssl_folder=None)
    why = "features of its vocal are missing; prep build-shards adds them"
    assert status(older, found.plan)["stale"] == {"a": why, "b": why}
    assert not any(song.vocal_features for song in read_manifest(older).songs().values())

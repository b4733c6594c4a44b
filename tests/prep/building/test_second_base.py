"""Songs to shards of ACE-Step 1.5, with its bundle: what they hold, and that a rerun makes only what is new."""

import numpy as np
import pytest

from common.audio.wave import read_audio
from common.bases import ACE_STEP_15
from common.errors import UserError
from models.loading.checkpoint import TINY15, open_codec
from prep.building.repair import rebuild_damaged
from prep.building.workers import torch_threads
from prep.config import PrepConfig
from prep.encoding.encode import encode_wave
from shards.reader import read_manifest, read_song
from shards.verify import verify


@pytest.fixture
def shards(tmp_path, song, build):
    """Of songs a and b; what is read at 48 000 Hz need not be resampled."""
    song(tmp_path / "raw", "a", parts=("vocal", "inst"), prompt="folk, 112bpm, slow", rate_hz=48_000)
    song(tmp_path / "raw", "b", parts=("vocal", "inst"), seconds=2.5, seed=1, rate_hz=48_000)
    (tmp_path / "raw" / "a_lyrics.txt").write_text("[Verse 1]\nla la")
    build(checkpoint="tiny15")
    return tmp_path / "shards"


def test_a_sample_holds_what_the_codec_makes_of_the_files_own_rate(tmp_path, shards):
    (sample,) = read_song(shards, "a")
    meta, frames = sample.meta, sample.meta.frames
    codec = open_codec(TINY15, encoder=True, decoder=False)
    start, factor = round(meta.start_seconds * 48_000), np.float32(10 ** (meta.gain_db / 20))
    for part, array in (("vocal", sample.vocal), ("inst", sample.targets["inst"])):
        wave = read_audio(tmp_path / "raw" / f"a_{part}.wav").samples[:, start : start + meta.samples] * factor
        with torch_threads(1):
            np.testing.assert_array_equal(array, encode_wave(codec, wave))
    assert frames == -(-meta.samples // 1920)
    assert sample.vocal.shape == (64, 1, frames)
    assert 0.4 < (sample.activity > 0.5).mean() < 0.9
    assert sample.text.shape[::2] == (len(meta.tag_orders), 1024)
    lengths = {name: len(array) for name, array in sample.arrays().items() if name.startswith("lyrics")}
    assert lengths["lyrics"] > max(lengths["lyrics_structure"], lengths["lyrics_instrumental"]) > 0
    manifest = read_manifest(shards)
    assert (manifest.version, manifest.spec) == (2, ACE_STEP_15)
    assert verify(shards) == []


def test_the_same_bytes_come_out_and_only_what_is_new_is_made(tmp_path, shards, song, build, hashes):
    build("again", checkpoint="tiny15")
    before = hashes(shards)
    assert hashes(tmp_path / "again") == before
    song(tmp_path / "raw", "c", parts=("vocal", "inst"), seed=2)
    (tmp_path / "raw" / "b_lyrics.txt").write_text("[Chorus]\noh")
    older = read_song(shards, "b")[0]
    report = build(checkpoint="tiny15")
    assert {part.song for part in report.encoded} == {"c"}
    newer = read_song(shards, "b")[0]
    changed = {name for name, array in newer.arrays().items() if not np.array_equal(array, older.arrays()[name])}
    assert changed == {"lyrics", "lyrics_structure"}
    whole = hashes(shards)
    (shards / "shard-000000.tar").write_bytes(b"")
    rebuild_damaged(shards, tmp_path / "raw", checkpoint="tiny15", devices=("cpu",), ssl_folder=None, workers=1)
    assert hashes(shards) == whole


def test_features_that_no_training_uses_are_refused(tmp_path, song, build):
    song(tmp_path / "raw", "a")
    with pytest.raises(UserError, match=r"^ssl: ace-step-1\.5 has no layers"):
        build(checkpoint="tiny15", config=PrepConfig(ssl=("mert",)))


def test_another_bases_checkpoint_does_not_extend_them(shards, build):
    with pytest.raises(UserError, match=r"the base model was ace-step-1\.5 and is ace-step-1") as raised:
        build(checkpoint="tiny")
    assert "\n" not in str(raised.value)

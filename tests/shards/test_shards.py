"""The format, from the writer through files to our reader and to plain webdataset."""

import dataclasses
import hashlib
import json
import re
import tarfile
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from common.bases import ACE_STEP_1, BASES, BaseOrigin
from common.errors import UserError
from common.latents import LatentLayout
from shards.fingerprint import Fingerprint
from shards.lock import build_folder
from shards.manifest import MANIFEST_FILE
from shards.reader import read_manifest, read_shard, read_song
from shards.rejection import Rejection, SongError
from shards.schema import PartLevels, Source, check_sample
from shards.tar import append_sample, open_tar, read_samples
from shards.verify import verify
from shards.writer import ShardWriter


def test_what_was_written_is_read_back(tmp_path, songs, write, assert_same):
    manifest = write(tmp_path, songs, shard_samples=4)
    read = [sample for shard in manifest.shards for sample in read_shard(tmp_path, shard)]
    for ours, written in zip(read, chain(*songs), strict=True):
        assert_same(ours, written)
    assert verify(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "manifest.json", "rejected.jsonl", "shard-000000.tar", "shard-000001.tar"
    ]  # fmt: skip


def test_the_manifest_counts_and_indexes(tmp_path, fingerprint, songs, write):
    manifest = write(tmp_path, songs, shard_samples=4)
    assert [[segment.key for segment in shard.segments] for shard in manifest.shards] == [
        ["a_000", "a_001", "a_002", "b_000"],
        ["c_000", "c_001", "d_000", "d_001"],
    ]
    assert (manifest.totals.songs, manifest.totals.segments) == (4, 8)
    assert manifest.totals.frames == sum(sample.meta.frames for song in songs for sample in song)
    assert manifest.totals.seconds == pytest.approx(sum(sample.meta.seconds for song in songs for sample in song))
    assert manifest.totals.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert manifest.vocal_lufs == pytest.approx(-17.5)  # four of them at -17, three at -18, one at -19
    assert manifest.fingerprint == fingerprint
    assert manifest.statistics is None


def test_a_songs_segments_never_straddle_two_shards(tmp_path, songs, write):
    manifest = write(tmp_path, songs, shard_samples=2)
    assert [shard.samples for shard in manifest.shards] == [3, 1, 2, 2]


def test_plain_webdataset_reads_it(tmp_path, songs, write):
    write(tmp_path, songs)
    dataset: Any = WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode()
    for plain, written in zip(dataset, chain(*songs), strict=True):
        assert plain["__key__"] == written.meta.key
        assert plain["json"] == written.meta.model_dump(mode="json")
        for name, array in written.arrays().items():
            np.testing.assert_array_equal(plain[f"{name}.npy"], array)


def test_statistics_are_those_of_sung_frames(tmp_path, songs, write):
    silence = np.arange(128).reshape(8, 16) / 100
    statistics = write(tmp_path, songs, shard_samples=3, silence=silence).statistics
    assert statistics is not None
    sung = [s.vocal[..., s.activity >= 0.5].astype(float) - silence[..., None] for song in songs for s in song]
    centred = np.concatenate(sung, axis=-1)
    np.testing.assert_allclose(statistics.mean, centred.mean(axis=(1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, np.sqrt(np.square(centred).mean(axis=(1, 2))), rtol=1e-9)
    np.testing.assert_array_equal(statistics.silence, silence)


def test_same_songs_same_bytes(tmp_path, songs, write):
    for folder in ("one", "two"):
        write(tmp_path / folder, songs, shard_samples=4, silence=np.zeros((8, 16)))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_members_tell_nothing_of_who_wrote_them_and_when(tmp_path, songs, write):
    write(tmp_path, songs)
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        told = {(member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) for member in tar}
    assert told == {(0, 0, 0, "", "", 0o644)}


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def test_appending_leaves_older_shards_alone(tmp_path, songs, write):
    first = write(tmp_path, songs[:2], shard_samples=3)
    before = hashes(tmp_path)
    both = write(tmp_path, songs[2:], shard_samples=3, append=first)
    after = hashes(tmp_path)
    assert [shard.name for shard in both.shards] == [f"shard-{n:06d}.tar" for n in range(4)]
    assert all(after[shard.name] == before[shard.name] for shard in first.shards)
    assert both.totals.songs == 4
    assert verify(tmp_path) == []


def test_replacing_removes_only_what_the_old_manifest_names(tmp_path, songs, write):
    write(tmp_path, songs, shard_samples=2)
    (tmp_path / "shard-000099.tar").write_text("someone else's")
    (tmp_path / "schema.py").write_text("code")
    write(tmp_path, songs[:1])
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert files == ["manifest.json", "rejected.jsonl", "schema.py", "shard-000000.tar", "shard-000099.tar"]


def test_an_error_leaves_the_old_build_and_no_half_written_file(tmp_path, songs, write):
    first = write(tmp_path, songs[:1])
    before = hashes(tmp_path)
    bad = dataclasses.replace(songs[1][0], lyrics=np.int32(3))
    with pytest.raises(AssertionError, match="lyrics is int32"):
        write(tmp_path, [songs[2], [bad]], append=first, shard_samples=2)
    assert hashes(tmp_path) == before
    assert not (tmp_path / ".build").exists()


def test_a_bad_song_is_a_row_with_its_reason(tmp_path, fingerprint, songs):
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=("inst", "mix")) as writer:
        with writer.rejecting("z"):
            raise SongError("silent", "z: nothing to hear.")
        with writer.rejecting("a"):
            writer.add(songs[0])
        with writer.rejecting("y"):
            raise SongError("unreadable", "y\udcff.wav: damaged.")
    assert (tmp_path / "rejected.jsonl").read_text().splitlines() == [
        '{"detail":"y�.wav: damaged.","key":"y","reason":"unreadable"}',
        '{"detail":"z: nothing to hear.","key":"z","reason":"silent"}',
    ]
    assert read_manifest(tmp_path).totals.songs == 1


def test_an_error_that_is_no_songs_fault_stops_the_build(tmp_path, fingerprint):
    writer = ShardWriter(tmp_path, fingerprint=fingerprint, targets=())
    with pytest.raises(UserError, match="disk full"), writer.rejecting("a"):
        raise UserError("disk full")


def test_without_a_song_there_is_no_manifest(tmp_path, fingerprint):
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=("inst",)) as writer:
        writer.reject(Rejection(key="a", reason="silent", detail="a: silent."))
    assert (tmp_path / "rejected.jsonl").exists()
    assert not (tmp_path / MANIFEST_FILE).exists()


def test_a_bad_sample_is_never_written(tmp_path, fingerprint, make_sample):
    sample = make_sample()
    wrong = dataclasses.replace(sample, vocal=sample.vocal.astype(np.float32), activity=sample.activity[:-1])
    assert check_sample(wrong, ACE_STEP_1) == [
        "vocal is float32 [8, 16, 12], expected float16 [8, 16, 12]",
        "activity is float16 [11], expected float16 [12]",
    ]
    with pytest.raises(AssertionError), ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        writer.add([wrong])


def test_check_sample_finds_each_fault(make_sample):
    sample = make_sample()
    nan = sample.targets["inst"].copy()
    nan[0, 0, 0] = np.nan
    assert check_sample(sample, ACE_STEP_1) == []
    assert check_sample(dataclasses.replace(sample, targets=dict(sample.targets) | {"inst": nan}), ACE_STEP_1) == [
        "inst holds NaN or infinity"
    ]
    assert check_sample(dataclasses.replace(sample, text_mask=sample.text_mask[:, :3]), ACE_STEP_1) == [
        "text_mask is bool [2, 3], expected bool [2, 5]"
    ]
    assert check_sample(dataclasses.replace(sample, lyrics=np.int32(3)), ACE_STEP_1) == [
        "lyrics is int32 [], expected int32 ['N']"
    ]
    assert check_sample(dataclasses.replace(sample, activity=sample.activity * np.float16(2)), ACE_STEP_1) == [
        "activity runs from 0 to 2, expected 0 to 1"
    ]
    below = sample.activity - np.float16(0.5)
    assert check_sample(dataclasses.replace(sample, activity=below), ACE_STEP_1) == [
        "activity runs from -0.5 to 0.5, expected 0 to 1"
    ]
    assert check_sample(dataclasses.replace(sample, text=sample.text[:1]), ACE_STEP_1) == [
        "text is float16 [1, 5, 6], expected float16 [2, 5, 6]"
    ]
    narrow = {("mix", "mert"): np.zeros((3, 768), np.float16), ("inst", "mhubert"): np.zeros((3, 1024), np.float16)}
    assert check_sample(dataclasses.replace(sample, features=narrow), ACE_STEP_1) == [
        "inst_mhubert is float16 [3, 1024], expected float16 [3, 768]",
        "mix_mert is float16 [3, 768], expected float16 [3, 1024]",
    ]
    longer = sample.meta.model_copy(update={"samples": 13 * 4096})
    assert check_sample(dataclasses.replace(sample, meta=longer), ACE_STEP_1) == [
        "53248 samples make 13 frames, not 12"
    ]
    other = sample.meta.model_copy(update={"song": "other"})
    assert check_sample(dataclasses.replace(sample, meta=other), ACE_STEP_1) == [
        "key ballad_000 is not segment 0 of song other"
    ]


def test_a_vocal_alone_has_no_targets(tmp_path, fingerprint, make_sample):
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        writer.add([make_sample(targets=())])
    assert read_manifest(tmp_path).targets == ()
    assert not read_song(tmp_path, "ballad")[0].targets
    assert verify(tmp_path) == []


def test_a_vocal_that_nobody_sings_has_no_loudness_and_does_not_count(tmp_path, songs, write):
    first = songs[0][0]
    unsung = first.meta.model_copy(update={"lufs": PartLevels(mix=-17.0)})
    manifest = write(tmp_path, [[dataclasses.replace(first, meta=unsung), *songs[0][1:]]])
    assert [segment.vocal_lufs for segment in manifest.shards[0].segments] == [None, -18.0, -19.0]
    assert manifest.vocal_lufs == -18.5
    silent = dataclasses.replace(first, meta=unsung, activity=np.zeros_like(first.activity))
    alone = write(tmp_path, [[silent]], silence=np.zeros((8, 16)))
    assert (alone.vocal_lufs, alone.statistics) == (None, None)


def test_shards_that_were_appended_to_remember_the_networks_of_both_builds(tmp_path, songs, write, fingerprint):
    first = write(tmp_path, songs[:1])
    separated = fingerprint.model_copy(update={"networks": {"demucs": "d" * 64}})
    with ShardWriter(tmp_path, fingerprint=separated, targets=("inst", "mix"), append=first) as writer:
        writer.add(songs[1])
    assert read_manifest(tmp_path).fingerprint.networks == {"codec": "a" * 64, "demucs": "d" * 64}


def test_a_song_is_known_by_what_its_files_and_texts_hold_not_by_their_names(tmp_path, make_sample, write):
    sources = [
        Source(part=part, file=f"{part}.wav", sha256=digit * 64) for part, digit in (("vocal", "1"), ("mix", "2"))
    ]
    meta = make_sample().meta.model_copy(update={"sources": tuple(sources), "sound_sha256": "5" * 64})

    def identity(**update):
        changed = dataclasses.replace(make_sample(), meta=meta.model_copy(update=update))
        (song,) = write(tmp_path, [[changed]]).shards[0].songs
        assert song.sound_sha256 == "5" * 64
        return song.audio_sha256, song.text_sha256

    audio, text = identity()
    renamed = tuple(source.model_copy(update={"file": "other.wav"}) for source in sources)
    swapped = tuple(
        source.model_copy(update={"sha256": digit * 64}) for source, digit in zip(sources, "21", strict=True)
    )
    assert identity(sources=renamed) == identity(sources=renamed[::-1]) == (audio, text)
    assert identity(sources=swapped)[0] != audio
    for changed in ({"prompt": "folk"}, {"lyrics": "la"}, {"prompt": "la", "lyrics": meta.prompt}):
        assert identity(**changed)[0] == audio
        assert identity(**changed)[1] != text


# reading by key


def test_a_song_key_means_all_its_segments(tmp_path, songs, write):
    write(tmp_path, songs, shard_samples=2)
    assert [sample.meta.key for sample in read_song(tmp_path, "a")] == ["a_000", "a_001", "a_002"]
    assert [sample.meta.key for sample in read_song(tmp_path, "a_001")] == ["a_001"]
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(tmp_path))}: no song x among 4\. prep inspect lists them\.$"
    ):
        read_song(tmp_path, "x")


def test_only_the_shards_that_hold_a_song_are_opened(tmp_path, songs, write):
    write(tmp_path, songs, shard_samples=2)
    (tmp_path / "shard-000000.tar").unlink()
    assert len(read_song(tmp_path, "c")) == 2


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json here\. Make shards with: prep build-shards raw/ "):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("settings", "language"),
    [({"text": {"lyrics_language": "ja"}}, "ja"), ({"text": {}}, "en"), ({}, "en"), ({"text": None}, "en")],
)
def test_a_manifest_says_in_which_language_lyrics_were_read(tmp_path, songs, settings, language):
    fingerprint = Fingerprint(settings=settings, networks={}, steps={})
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        writer.add(songs[0])
    assert read_manifest(tmp_path).lyrics_language == language


@pytest.mark.parametrize(
    "name", ["../shard-000000.tar", "pipe:id", "shard-0.tar", "shard-000000.tar\n", "shard-٠٠٠٠٠٠.tar"]
)
def test_a_manifest_cannot_name_other_files(tmp_path, songs, name, write):
    write(tmp_path, songs)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    manifest["shards"][0]["name"] = name
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json: shards\.0\.name: String should match pattern"):
        read_manifest(tmp_path)


names = st.text(st.characters(exclude_characters="./\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: len(name.encode()) <= 70
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(song=names, segment=st.integers(0, 999), frames=st.integers(1, 40), prompt=texts, lyrics=texts)
def test_any_name_and_text_survives(tmp_path, make_sample, song, segment, frames, prompt, lyrics, assert_same):
    sample = make_sample(song, segment, frames=frames)
    sample = dataclasses.replace(
        sample, meta=sample.meta.model_copy(update={"prompt": prompt, "lyrics": lyrics, "tag_orders": (prompt, prompt)})
    )
    with (tmp_path / "shard.tar").open("wb") as file, open_tar(file) as tar:
        append_sample(tar, sample, ACE_STEP_1)
    (read,) = read_samples(tmp_path / "shard.tar")
    assert_same(read, sample)


# one writer at a time


def test_a_second_writer_is_refused_while_the_first_is_there(tmp_path):
    with build_folder(tmp_path) as folder:
        with pytest.raises(UserError) as raised, build_folder(tmp_path):
            pass
        assert str(raised.value) == (
            f"{tmp_path}: another prep is writing here. Wait for it to end, or give another folder."
        )
        assert folder.is_dir()
    with build_folder(tmp_path):
        pass
    assert not (tmp_path / ".build").exists()


def test_a_lock_file_left_by_a_dead_process_is_no_obstacle(tmp_path):
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build" / "lock").touch()
    with build_folder(tmp_path):
        pass


def test_shards_of_another_base_are_of_version_2_and_hold_its_latents(tmp_path, fingerprint, make_sample, monkeypatch):
    wide = dataclasses.replace(
        ACE_STEP_1, name="wide", latents=LatentLayout(48_000, 1920, channels=64, rows=1), shards_version=2
    )
    monkeypatch.setitem(BASES, "wide", wide)
    sample = make_sample()
    latents = np.zeros((64, 1, 12), np.float16)
    meta = sample.meta.model_copy(update={"samples": 12 * 1920 - 5})
    sample = dataclasses.replace(sample, meta=meta, vocal=latents, targets={"inst": latents})
    with ShardWriter(
        tmp_path, fingerprint=fingerprint, targets=["inst"], base=BaseOrigin(model="wide"), silence=np.zeros((64, 1))
    ) as writer:
        writer.add([sample])
    manifest = read_manifest(tmp_path)
    assert (manifest.version, manifest.spec) == (2, wide)
    assert verify(tmp_path) == []
    values = json.loads((tmp_path / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(values | {"version": 1}))
    with pytest.raises(UserError, match="version 1 does not go with latents of wide"):
        read_manifest(tmp_path)

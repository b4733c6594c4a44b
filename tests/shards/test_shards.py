"""The format, from the writer through files to our reader and to plain webdataset."""

import dataclasses
import hashlib
import io
import json
import pickle
import re
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from common.errors import UserError
from shards.lock import build_folder
from shards.reader import read_manifest, read_shard, read_song
from shards.schema import MANIFEST_FILE, Rejection, SongError, check_sample
from shards.tar import append_sample, npy_array, open_tar, read_samples
from shards.verify import verify
from shards.writer import ShardWriter


def write(out, fingerprint, songs, **options):
    with ShardWriter(out, fingerprint=fingerprint, targets=("inst", "mix"), **options) as writer:
        for song in songs:
            writer.add(song)
    return read_manifest(out)


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture
def songs(make_sample):
    """Four songs of three, one, two and two segments."""
    return [
        [make_sample(name, n, frames=9 + n) for n in range(count)]
        for name, count in zip("abcd", (3, 1, 2, 2), strict=True)
    ]


def assert_same(read, written):
    assert read.meta == written.meta
    assert read.arrays().keys() == written.arrays().keys()
    for name, array in written.arrays().items():
        assert read.arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(read.arrays()[name], array)


def test_what_was_written_is_read_back(tmp_path, fingerprint, songs):
    manifest = write(tmp_path, fingerprint, songs, shard_samples=4)
    read = [sample for shard in manifest.shards for sample in read_shard(tmp_path, shard)]
    for ours, written in zip(read, chain(*songs), strict=True):
        assert_same(ours, written)
    assert verify(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "manifest.json", "rejected.jsonl", "shard-000000.tar", "shard-000001.tar"
    ]  # fmt: skip


def test_the_manifest_counts_and_indexes(tmp_path, fingerprint, songs):
    manifest = write(tmp_path, fingerprint, songs, shard_samples=4)
    assert [[segment.key for segment in shard.segments] for shard in manifest.shards] == [
        ["a_000", "a_001", "a_002", "b_000"],
        ["c_000", "c_001", "d_000", "d_001"],
    ]
    assert (manifest.totals.songs, manifest.totals.segments) == (4, 8)
    assert manifest.totals.frames == sum(sample.meta.frames for song in songs for sample in song)
    assert manifest.totals.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert manifest.vocal_lufs == pytest.approx(-17.5)  # median of -17 (five of them at most) and lower
    assert manifest.fingerprint == fingerprint
    assert manifest.statistics is None


def test_a_songs_segments_never_straddle_two_shards(tmp_path, fingerprint, songs):
    manifest = write(tmp_path, fingerprint, songs, shard_samples=2)
    assert [shard.samples for shard in manifest.shards] == [3, 1, 2, 2]


def test_plain_webdataset_reads_it(tmp_path, fingerprint, songs):
    write(tmp_path, fingerprint, songs)
    dataset: Any = WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode()
    for plain, written in zip(dataset, chain(*songs), strict=True):
        assert plain["__key__"] == written.meta.key
        assert plain["json"] == written.meta.model_dump(mode="json")
        for name, array in written.arrays().items():
            np.testing.assert_array_equal(plain[f"{name}.npy"], array)


def test_statistics_are_those_of_sung_frames(tmp_path, fingerprint, songs):
    silence = np.arange(128).reshape(8, 16) / 100
    statistics = write(tmp_path, fingerprint, songs, shard_samples=3, silence=silence).statistics
    assert statistics is not None
    sung = [s.vocal[..., s.activity >= 0.5].astype(float) - silence[..., None] for song in songs for s in song]
    centred = np.concatenate(sung, axis=-1)
    np.testing.assert_allclose(statistics.mean, centred.mean(axis=(1, 2)), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, np.sqrt(np.square(centred).mean(axis=(1, 2))), rtol=1e-9)
    np.testing.assert_array_equal(statistics.silence, silence)


def test_same_songs_same_bytes(tmp_path, fingerprint, songs):
    for folder in ("one", "two"):
        write(tmp_path / folder, fingerprint, songs, shard_samples=4, silence=np.zeros((8, 16)))
    assert hashes_of_files(tmp_path / "one") == hashes_of_files(tmp_path / "two")


def hashes_of_files(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def test_appending_leaves_older_shards_alone(tmp_path, fingerprint, songs):
    first = write(tmp_path, fingerprint, songs[:2], shard_samples=3)
    before = hashes_of_files(tmp_path)
    both = write(tmp_path, fingerprint, songs[2:], shard_samples=3, append=first)
    after = hashes_of_files(tmp_path)
    assert [shard.name for shard in both.shards] == [f"shard-{n:06d}.tar" for n in range(4)]
    assert all(after[shard.name] == before[shard.name] for shard in first.shards)
    assert both.totals.songs == 4
    assert verify(tmp_path) == []


def test_replacing_removes_only_what_the_old_manifest_names(tmp_path, fingerprint, songs):
    write(tmp_path, fingerprint, songs, shard_samples=2)
    (tmp_path / "shard-000099.tar").write_text("someone else's")
    (tmp_path / "schema.py").write_text("code")
    write(tmp_path, fingerprint, songs[:1])
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert files == ["manifest.json", "rejected.jsonl", "schema.py", "shard-000000.tar", "shard-000099.tar"]


def test_an_error_leaves_the_old_build_and_no_half_written_file(tmp_path, fingerprint, songs):
    first = write(tmp_path, fingerprint, songs[:1])
    before = hashes_of_files(tmp_path)
    bad = dataclasses.replace(songs[1][0], lyrics=None)
    with pytest.raises(AssertionError, match="has no lyrics"):
        write(tmp_path, fingerprint, [songs[2], [bad]], append=first)
    assert hashes_of_files(tmp_path) == before
    assert not list((tmp_path / ".build").iterdir())


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
    assert check_sample(wrong) == [
        "vocal is float32 [8, 16, 12], expected float16 [8, 16, 12]",
        "activity is float16 [11], expected float16 [12]",
    ]
    with pytest.raises(AssertionError), ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        writer.add([wrong])


def test_check_sample_finds_each_fault(make_sample):
    sample = make_sample()
    nan = sample.inst.copy()
    nan[0, 0, 0] = np.nan
    assert check_sample(sample) == []
    assert check_sample(dataclasses.replace(sample, inst=nan)) == ["inst holds NaN or infinity"]
    assert check_sample(dataclasses.replace(sample, text_mask=sample.text_mask[:, :3])) == [
        "text_mask is bool [2, 3], expected bool [2, 5]"
    ]
    assert check_sample(dataclasses.replace(sample, lyrics=np.int32(3))) == ["lyrics is int32 [], expected int32 ['N']"]
    longer = sample.meta.model_copy(update={"samples": 13 * 4096})
    assert check_sample(dataclasses.replace(sample, meta=longer)) == ["53248 samples make 13 frames, not 12"]
    other = sample.meta.model_copy(update={"song": "other"})
    assert check_sample(dataclasses.replace(sample, meta=other)) == ["key ballad_000 is not segment 0 of song other"]


def test_a_vocal_alone_has_no_targets(tmp_path, fingerprint, make_sample):
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        writer.add([make_sample(targets=())])
    assert read_manifest(tmp_path).targets == ()
    assert read_song(tmp_path, "ballad")[0].inst is None
    assert verify(tmp_path) == []


# reading by key


def test_a_song_key_means_all_its_segments(tmp_path, fingerprint, songs):
    write(tmp_path, fingerprint, songs, shard_samples=2)
    assert [sample.meta.key for sample in read_song(tmp_path, "a")] == ["a_000", "a_001", "a_002"]
    assert [sample.meta.key for sample in read_song(tmp_path, "a_001")] == ["a_001"]
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(tmp_path))}: no song x among 4\. prep inspect lists them\.$"
    ):
        read_song(tmp_path, "x")


def test_only_the_shards_that_hold_a_song_are_opened(tmp_path, fingerprint, songs):
    write(tmp_path, fingerprint, songs, shard_samples=2)
    (tmp_path / "shard-000000.tar").unlink()
    assert len(read_song(tmp_path, "c")) == 2


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json here\. Make shards with: prep build-shards raw/ "):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name", ["../shard-000000.tar", "pipe:id", "shard-0.tar", "shard-000000.tar\n", "shard-٠٠٠٠٠٠.tar"]
)
def test_a_manifest_cannot_name_other_files(tmp_path, fingerprint, songs, name):
    write(tmp_path, fingerprint, songs)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    manifest["shards"][0]["name"] = name
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json: shards\.0\.name: String should match pattern"):
        read_manifest(tmp_path)


# other people's and damaged files


class Boom:
    def __reduce__(self):
        return Path.touch, (Path("boom"),)


def test_nothing_is_unpickled(tmp_path, fingerprint, make_sample, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("shard-000000.tar").open("wb") as file, open_tar(file) as tar:
        append_sample(tar, make_sample())
        bomb = pickle.dumps(Boom())
        for field in ("pkl", "vocal.pyd", "text.pth", "npy"):
            member = tarfile.TarInfo(f"ballad_000.{field}")
            member.size = len(bomb)
            tar.addfile(member, io.BytesIO(bomb))
    (sample,) = read_samples(Path("shard-000000.tar"))
    assert_same(sample, make_sample())
    objects = io.BytesIO()
    np.save(objects, np.array([Boom()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"not a \.npy of version 1\.0, in C order, of f2, i4 or b1"):
        npy_array(objects.getvalue())
    assert not Path("boom").exists()


def test_a_header_that_promises_terabytes_allocates_nothing():
    promise: Any = {"descr": "<f2", "fortran_order": False, "shape": (1 << 38,)}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, promise)
    with pytest.raises(ValueError, match="cannot reshape"):
        npy_array(header.getvalue() + b"\0\0")


@pytest.fixture
def damaged(tmp_path, fingerprint, songs):
    """Two shards, of which the test spoils one."""
    write(tmp_path, fingerprint, songs, shard_samples=4)
    return tmp_path


def problems(folder):
    return [str(problem) for problem in verify(folder)]


def test_verify_finds_a_missing_shard(damaged):
    (damaged / "shard-000001.tar").unlink()
    assert problems(damaged) == ["shard-000001.tar: missing"]


def test_verify_finds_a_flipped_byte_and_the_sample_it_spoils(damaged):
    content = bytearray((damaged / "shard-000000.tar").read_bytes())
    at = content.index(b"a_001.json")
    content[at + 512 + 20] ^= 0xFF
    (damaged / "shard-000000.tar").write_bytes(content)
    first, second = problems(damaged)
    assert first.startswith("shard-000000.tar: sha256 is ")
    assert second.startswith("shard-000000.tar, a_001: ")


def test_verify_finds_a_truncated_shard(damaged):
    content = (damaged / "shard-000000.tar").read_bytes()
    (damaged / "shard-000000.tar").write_bytes(content[: len(content) // 2])
    first, second = problems(damaged)
    assert first == f"shard-000000.tar: holds {len(content) // 2} bytes, the manifest says {len(content)}"
    assert second.startswith("shard-000000.tar, a_00")


def test_verify_finds_a_manifest_of_another_build(damaged, tmp_path_factory, fingerprint, make_sample):
    other = tmp_path_factory.mktemp("other")
    write(other, fingerprint, [[make_sample("e")]])
    (damaged / MANIFEST_FILE).write_bytes((other / MANIFEST_FILE).read_bytes())
    assert any(
        "the manifest has ('e_000', 'e', 12) here, the sample is ('a_000', 'a', 9)" in p for p in problems(damaged)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_gets_past_verify_or_out_as_another_error(damaged, data):
    path = damaged / "shard-000000.tar"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = bytearray(whole)
    spoiled[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(spoiled)
    try:
        assert problems(damaged)
    finally:
        path.write_bytes(whole)


names = st.text(st.characters(exclude_characters="./\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: len(name.encode()) <= 70
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(song=names, segment=st.integers(0, 999), frames=st.integers(1, 40), prompt=texts, lyrics=texts)
def test_any_name_and_text_survives(tmp_path, make_sample, song, segment, frames, prompt, lyrics):
    sample = make_sample(song, segment, frames=frames)
    sample = dataclasses.replace(
        sample, meta=sample.meta.model_copy(update={"prompt": prompt, "lyrics": lyrics, "tag_orders": (prompt, prompt)})
    )
    with (tmp_path / "shard.tar").open("wb") as file, open_tar(file) as tar:
        append_sample(tar, sample)
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

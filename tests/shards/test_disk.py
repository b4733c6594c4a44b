"""Whatever a disk refuses: the build before stays, or the next writer ends the new one; shards are mended in place."""

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.bases import ACE_STEP_1
from common.errors import UserError
from common.files import move_file
from shards.commit import COMMIT_FILE, settle
from shards.lock import build_folder, sweep
from shards.manifest import MANIFEST_FILE
from shards.reader import read_manifest, read_rejections
from shards.rejection import Rejection
from shards.salvage import salvage
from shards.tar import append_sample
from shards.verify import verify
from shards.writer import ShardWriter


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def again(older, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(older, folder)


@pytest.mark.parametrize("append", [False, True])
def test_whatever_the_disk_refuses_a_build_is_the_old_or_the_new_one(tmp_path, songs, write, each_refusal, append):
    first = write(tmp_path / "old", songs[:3], shard_samples=2)
    options = {"append": first} if append else {"shard_samples": 4}
    again(tmp_path / "old", tmp_path / "new")
    write(tmp_path / "new", songs[3:] if append else songs, **options)
    old, new, out = contents(tmp_path / "old"), contents(tmp_path / "new"), tmp_path / "out"

    def build():
        with build_folder(out):
            write(out, songs[3:] if append else songs, **options)

    ends = []
    for _ in each_refusal(build, before=lambda: again(tmp_path / "old", out)):
        assert all(content in (old.get(name), new.get(name)) for name, content in contents(out).items())
        with build_folder(out):
            assert not list((out / ".build").glob("shard-*"))
        ends.append(contents(out))
        assert [path.name for path in out.iterdir() if path.is_dir()] == []
    assert all(end in (old, new) for end in ends)
    assert ends == sorted(ends, key=lambda end: end == new)  # once on record, it is finished
    assert 0 < ends.count(new) < len(ends)
    assert contents(out) == new


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_disk_that_is_full_amid_a_shard_keeps_the_old_build(tmp_path, songs, write, full_disk, part):
    first = write(tmp_path, songs[:1])
    before = contents(tmp_path)
    with full_disk(int(first.shards[0].bytes * part)), pytest.raises(UserError) as caught:
        write(tmp_path, songs[:1])
    assert str(caught.value) == f"{tmp_path}/.build/shard-000000.tar: cannot be written (File too large)."
    assert contents(tmp_path) == before
    assert not (tmp_path / ".build").exists()


def test_the_manifest_comes_after_all_that_it_names_and_before_it_nothing_goes(tmp_path, songs, write, monkeypatch):
    write(tmp_path, songs, shard_samples=2)
    before = (tmp_path / MANIFEST_FILE).read_bytes()
    moved = []

    def note(staged, path):
        if (tmp_path / MANIFEST_FILE).read_bytes() == before:
            moved.append(path.name)
        move_file(staged, path)

    monkeypatch.setattr("shards.commit.move_file", note)
    write(tmp_path, songs, shard_samples=4)
    assert moved == ["shard-000000.tar", "shard-000001.tar", "rejected.jsonl", "manifest.json"]
    assert verify(tmp_path) == []


def test_what_waits_for_no_commit_is_dropped(tmp_path, songs, write):
    write(tmp_path, songs)
    before = contents(tmp_path)
    (tmp_path / ".build").mkdir()
    for name in ("shard-000007.tar", "shard-000008.part", "rejected.jsonl", "song-1.safetensors"):
        (tmp_path / ".build" / name).touch()
    settle(tmp_path)
    assert [path.name for path in (tmp_path / ".build").iterdir()] == ["song-1.safetensors"]
    assert contents(tmp_path) == before


def test_beside_a_manifest_that_nobody_can_read_no_shard_is_removed(tmp_path, songs, write):
    write(tmp_path, songs, shard_samples=2)
    (tmp_path / MANIFEST_FILE).write_text("{")
    write(tmp_path, songs)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [f"shard-{n:06d}.tar" for n in range(4)]
    assert verify(tmp_path) == []


def test_a_commit_file_that_is_damaged_is_one_line_and_nothing_moves(tmp_path, songs, write):
    write(tmp_path, songs)
    before = contents(tmp_path)
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build" / COMMIT_FILE).write_text('{"format"')
    with pytest.raises(UserError, match=r"^.*commit\.json: not valid JSON \("), build_folder(tmp_path):
        pass
    assert contents(tmp_path) == before


def test_sweeping_takes_all_but_the_lock_and_what_is_kept(tmp_path):
    with build_folder(tmp_path) as room:
        for name in ("segment", "cache"):
            (room / name).touch()
        sweep(room, keep=["cache"])
        assert sorted(path.name for path in room.iterdir()) == ["cache", "lock"]
    assert [path.name for path in (tmp_path / ".build").iterdir()] == ["cache"]


def test_writers_that_come_and_go_are_never_two_at_once(tmp_path):
    """The lock's file and folder go with each of them, so that the next one may lock what is just being removed."""

    refusals = set()

    def come_and_go(_):
        for _ in range(40):
            try:
                with build_folder(tmp_path / "out"):
                    (tmp_path / "here").mkdir()  # fails where somebody else is
                    (tmp_path / "here").rmdir()
            except UserError as error:
                refusals.add(str(error).partition(": ")[2].partition(".")[0])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert refusals <= {"another prep is writing here"}
    with build_folder(tmp_path / "out"):
        pass


def test_a_list_of_rejections_is_read_back_and_damage_to_it_is_one_line(tmp_path, fingerprint):
    rows = [Rejection(key=key, reason="silent", detail=f"{key}\u2028é") for key in "ab"]
    assert read_rejections(tmp_path) == []
    with ShardWriter(tmp_path, fingerprint=fingerprint, targets=()) as writer:
        for row in reversed(rows):
            writer.reject(row)
    assert read_rejections(tmp_path) == rows
    for damage in (b"\xff", b'{"key":"c"', b"[]"):
        with (tmp_path / "rejected.jsonl").open("ab") as file:
            file.write(damage)
        with pytest.raises(UserError, match=r"^.*rejected\.jsonl: "):
            read_rejections(tmp_path)
        (tmp_path / "rejected.jsonl").write_bytes(b"")


# shards made anew in their places


def rewritten(folder, fingerprint, name, samples):
    older = read_manifest(folder)
    with ShardWriter(
        folder, fingerprint=fingerprint, targets=("inst", "mix"), silence=np.zeros((8, 16)), append=older
    ) as writer:
        writer.rewrite(name, samples)
    return read_manifest(folder)


def test_the_same_samples_make_the_same_shard_in_its_place(tmp_path, songs, write, fingerprint):
    write(tmp_path, songs, shard_samples=4, silence=np.zeros((8, 16)))
    before = contents(tmp_path)
    rewritten(tmp_path, fingerprint, "shard-000000.tar", [*songs[0], *songs[1]])
    assert contents(tmp_path) == before


def test_a_shard_of_no_samples_is_removed_and_its_name_is_not_given_again(tmp_path, songs, write, fingerprint):
    write(tmp_path, songs, shard_samples=2)
    left = rewritten(tmp_path, fingerprint, "shard-000001.tar", [])
    assert [shard.name for shard in left.shards] == [f"shard-{n:06d}.tar" for n in (0, 2, 3)]
    assert not (tmp_path / "shard-000001.tar").exists()
    more = write(tmp_path, songs[1:2], append=left)
    assert [shard.name for shard in more.shards] == [f"shard-{n:06d}.tar" for n in (0, 2, 3, 4)]
    assert verify(tmp_path) == []


# what is left of a damaged shard


@pytest.fixture
def shard(tmp_path, songs, write):
    """(folder, entry, samples by key) of one shard of eight samples."""
    (entry,) = write(tmp_path, songs).shards
    return tmp_path, entry, {sample.meta.key: sample for song in songs for sample in song}


def salvaged(shard, assert_same):
    """Keys of what is salvaged; each sample is as it was written."""
    folder, entry, written = shard
    found = list(salvage(folder, entry, ACE_STEP_1))
    for sample in found:
        assert_same(sample, written[sample.meta.key])
    return [sample.meta.key for sample in found]


def test_a_damaged_byte_costs_no_sample_but_its_own(shard, assert_same):
    folder, entry, written = shard
    path, keys = folder / entry.name, list(written)
    whole = path.read_bytes()
    starts = [whole.index(f"{key}.json".encode()) for key in keys] + [len(whole)]
    for at in range(7, len(whole), 24_989):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        own = [key for key, start, end in zip(keys, starts, starts[1:], strict=False) if start <= at < end]
        lost = [key for key in keys if key not in salvaged(shard, assert_same)]
        assert lost in (own, [])
        assert verify(folder)


def test_of_a_shard_cut_short_all_before_the_cut_is_left(shard, assert_same):
    folder, entry, written = shard
    path, keys = folder / entry.name, list(written)
    whole = path.read_bytes()
    for number, key in enumerate(keys):
        path.write_bytes(whole[: whole.index(f"{key}.mix.npy".encode()) + 700])
        assert salvaged(shard, assert_same) == keys[:number]
    path.unlink()
    assert salvaged(shard, assert_same) == []


def test_a_sample_that_the_manifest_does_not_have_so_is_not_salvaged(shard, make_sample, assert_same):
    folder, entry, written = shard
    strange = [make_sample("a", frames=20), make_sample("z"), *written.values()]
    with tarfile.open(folder / entry.name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in strange:
            append_sample(tar, sample, ACE_STEP_1)
    assert salvaged(shard, assert_same) == list(written)

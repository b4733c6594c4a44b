"""Other people's tars and damaged files: nothing is unpickled, everything is found."""

import io
import json
import pickle
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.bases import ACE_STEP_1
from common.errors import UserError
from shards.manifest import MANIFEST_FILE
from shards.reader import read_manifest
from shards.tar import append_sample, name_and_length, npy_array, open_tar, read_samples, samples_in
from shards.verify import verify


class Boom:
    def __reduce__(self):
        return Path.touch, (Path("boom"),)


def test_nothing_is_unpickled(tmp_path, make_sample, monkeypatch, assert_same):
    monkeypatch.chdir(tmp_path)
    with Path("shard-000000.tar").open("wb") as file, open_tar(file) as tar:
        append_sample(tar, make_sample(), ACE_STEP_1)
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
def tar_of(tmp_path):
    """tar_of({name: content}) is a tar of these members, with a link and a folder that have a field's name."""

    def make(members):
        path = tmp_path / "shard-000000.tar"
        with path.open("wb") as file, open_tar(file) as tar:
            for name, kind in (("ballad_000.mix.npy", tarfile.SYMTYPE), ("ballad_000.inst.npy", tarfile.DIRTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def members(make_sample):
    """The members of one good sample, by name."""
    written = io.BytesIO()
    with open_tar(written) as tar:
        append_sample(tar, make_sample(targets=()), ACE_STEP_1)
    written.seek(0)
    with tarfile.open(fileobj=written) as tar:
        files = ((member.name, tar.extractfile(member)) for member in tar)
        return {name: file.read() for name, file in files if file}


def complaint(path):
    with pytest.raises(UserError) as caught:
        list(read_samples(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_plain_files_are_members(tar_of, members, make_sample, assert_same):
    (sample,) = read_samples(tar_of(members))
    assert_same(sample, make_sample(targets=()))


def test_a_member_that_is_absent_or_something_else_is_one_line(tar_of, members):
    path = tar_of(members)
    for name in members:
        field = name.partition(".")[2].removesuffix(".npy")
        rest = {other: content for other, content in members.items() if other != name}
        assert complaint(tar_of(rest)) == f"{path}, sample ballad_000: has no {field}. Check with prep verify."
        where = f"{path}, sample ballad_000: cannot be decoded ("
        assert complaint(tar_of(members | {name: b"nothing"})).startswith(where)
    note = json.loads(members["ballad_000.json"])
    spoiled = json.dumps(note | {"frames": "many"}).encode()
    assert complaint(tar_of(members | {"ballad_000.json": spoiled})) == (
        f"{path}, sample ballad_000: frames: Input should be a valid integer, got 'many'"
    )


def test_a_name_that_is_given_twice_or_is_no_text_is_one_line(tar_of, members, make_sample):
    path = tar_of(members)
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE
    with path.open("wb") as file, open_tar(file) as tar:
        append_sample(tar, make_sample(targets=()), ACE_STEP_1)
        append_sample(tar, make_sample(targets=()), ACE_STEP_1)
    assert "duplicate file name in tar file" in complaint(path)
    header = tarfile.TarInfo("\udcff_000.json").tobuf(tarfile.USTAR_FORMAT, errors="surrogateescape")
    path.write_bytes(content[:end] + header + content[end:])
    assert complaint(path) == f"{path}: damaged (bad header). Check with prep verify."


def test_a_member_that_promises_more_than_the_shard_holds_is_not_asked_for():
    class Small(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size <= 10 * tarfile.BLOCKSIZE
            return super().read(size)

    member = tarfile.TarInfo("a_000.json")
    member.size = 8**11 - 1
    with pytest.raises(UserError) as caught:
        list(samples_in(Small(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)), "shard"))
    assert str(caught.value) == "shard: damaged (unexpected end of data). Check with prep verify."


def test_a_shard_that_cannot_be_opened_is_one_line(tmp_path):
    assert complaint(tmp_path) == f"{tmp_path}: cannot be read (Is a directory). Check with prep verify."


def test_a_header_of_a_negative_length_is_none():
    header = tarfile.TarInfo("a_000.json").tobuf(tarfile.USTAR_FORMAT)
    header = header[:124] + b"-0000001000\0" + header[136:]
    sums = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    with pytest.raises(tarfile.ReadError, match="bad header"):
        name_and_length(header[:148] + b"%06o\0 " % sums + header[156:])


def test_a_shard_cut_short_never_passes_for_a_shorter_one(tmp_path, songs, write):
    write(tmp_path, songs[:2])
    path = tmp_path / "shard-000000.tar"
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % tarfile.BLOCKSIZE
    starts = [at for at in range(0, end, tarfile.BLOCKSIZE) if whole[at : at + 5] in (b"a_000", b"a_001", b"b_000")]
    for cut in (*starts, *(start + 300 for start in starts), *(start + 700 for start in starts), end):
        path.write_bytes(whole[:cut])
        assert complaint(path).startswith(str(path))


@pytest.fixture
def damaged(tmp_path, songs, write):
    """Two shards, of which the test spoils one."""
    write(tmp_path, songs, shard_samples=4)
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


def test_verify_finds_a_manifest_of_another_build(damaged, tmp_path_factory, make_sample, write):
    other = tmp_path_factory.mktemp("other")
    write(other, [[make_sample("e")]])
    (damaged / MANIFEST_FILE).write_bytes((other / MANIFEST_FILE).read_bytes())
    assert any(
        "the manifest has ('e_000', 'e', 12) here, the sample is ('a_000', 'a', 9)" in p for p in problems(damaged)
    )


def test_verify_finds_totals_that_are_not_the_sums(damaged):
    manifest = json.loads((damaged / MANIFEST_FILE).read_text())
    manifest["totals"]["songs"] += 1
    (damaged / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert problems(damaged) == ["manifest.json: its totals are not the sums over its shards"]


def edited(folder, change):
    """Let `change` have the manifest's JSON as it will lie there."""
    values = json.loads((folder / MANIFEST_FILE).read_text())
    change(values)
    (folder / MANIFEST_FILE).write_text(json.dumps(values))


def leaves(values, path=()):
    """(path, value) of everything in nested JSON that is no object and no list."""
    if not isinstance(values, dict | list):
        yield path, values
        return
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield from leaves(value, (*path, key))


def test_no_figure_of_the_index_can_be_another(tmp_path, songs, write):
    """What cannot be told from the shards alone: hashes of a song's files, the silence, the fingerprint, the base."""
    write(tmp_path, songs[:2], shard_samples=3, silence=np.full((8, 16), 0.1))
    whole = (tmp_path / MANIFEST_FILE).read_bytes()
    manifest = json.loads(whole)
    assert verify(tmp_path) == []
    untold = {"songs", "silence", "fingerprint", "base", "format", "version"}
    told = [(path, value) for path, value in leaves(manifest) if "totals" in path or not untold & set(path)]
    assert len(told) > 80
    for path, value in told:
        holder = manifest
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value + 1 if isinstance(value, int | float) else value[:-1] + chr(ord(value[-1]) ^ 1)
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
        with suppress(UserError):  # a manifest that is none is found too
            assert verify(tmp_path), path
        holder[path[-1]] = value


@pytest.mark.parametrize("at", ["sums", "square_sums", "silence", "mean", "std"])
def test_a_manifest_that_lost_a_channel_is_one_line(tmp_path, songs, write, at):
    write(tmp_path, songs[:1], silence=np.zeros((8, 16)))
    edited(tmp_path, lambda values: (values["statistics"] | values["shards"][0]["vocal"])[at].pop())
    with pytest.raises(UserError, match=r"^.*manifest\.json: .*channels"):
        read_manifest(tmp_path)


def test_a_longer_shard_and_one_with_samples_too_few_or_too_many_are_found(damaged):
    path = damaged / "shard-000000.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    size = path.stat().st_size
    assert problems(damaged) == [f"shard-000000.tar: holds {size} bytes, the manifest says {size - 512}"]
    path.write_bytes(path.read_bytes()[:-512])
    for change, found in [
        (lambda segments: segments.append(segments[-1] | {"key": "b_001"}), "shard-000000.tar, b_001: missing"),
        (
            lambda segments: segments.pop(),
            "shard-000000.tar, b_000: the manifest has None here, the sample is ('b_000', 'b', 9)",
        ),
    ]:
        before = (damaged / MANIFEST_FILE).read_bytes()
        edited(damaged, lambda values, change=change: change(values["shards"][0]["segments"]))
        assert found in problems(damaged)
        (damaged / MANIFEST_FILE).write_bytes(before)


def test_targets_that_are_not_there_are_found_in_each_sample(damaged):
    edited(damaged, lambda values: values.update(targets=["inst"]))
    assert problems(damaged)[0] == (
        "shard-000000.tar, a_000: holds targets ['inst', 'mix'], the manifest says ['inst']"
    )
    assert len(problems(damaged)) == 8


def test_a_bad_sample_is_found_though_all_hashes_fit(tmp_path, songs, write, monkeypatch):
    monkeypatch.setattr("shards.tar.check_sample", lambda sample, latents: [])
    songs[0][1].vocal[0, 0, 0] = np.nan
    write(tmp_path, songs[:1])
    assert problems(tmp_path) == ["shard-000000.tar, a_001: vocal holds NaN or infinity"]


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

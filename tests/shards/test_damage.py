"""Other people's tars and damaged files: nothing is unpickled, everything is found."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.schema import MANIFEST_FILE
from shards.tar import append_sample, npy_array, open_tar, read_samples
from shards.verify import verify


class Boom:
    def __reduce__(self):
        return Path.touch, (Path("boom"),)


def test_nothing_is_unpickled(tmp_path, make_sample, monkeypatch, assert_same):
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

"""A lead sheet in a shard: an optional member of a sample, and nothing where a song has none."""

import hashlib
import tarfile
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.compat import WebDataset

from common.bases import ACE_STEP_1
from common.errors import UserError
from common.music.notation import write_lead_sheet
from shards.manifest import lead_sheet_identity, text_identity
from shards.reader import read_manifest, read_shard
from shards.salvage import salvage
from shards.schema import check_sample
from shards.tar import decode_sample, sample_sha256
from shards.verify import verify


@pytest.fixture
def with_sheet(make_sample, sheet):
    """A good sample with a lead sheet."""
    sample = make_sample()
    meta = sample.meta.model_copy(update={"lead_sheet_sha256": lead_sheet_identity(sheet)})
    return replace(sample, meta=meta, lead_sheet=sheet)


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member))}


def test_a_lead_sheet_is_read_back_by_us_and_by_plain_webdataset(tmp_path, write, with_sheet, make_sample, sheet):
    manifest = write(tmp_path, [[with_sheet], [make_sample("other")]])
    first, second = read_shard(tmp_path, manifest.shards[0])
    assert (first.lead_sheet, second.lead_sheet) == (sheet, None)
    assert [song.lead_sheet for song in manifest.shards[0].songs] == [True, False]
    assert verify(tmp_path) == []
    dataset: Any = WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False).decode()
    assert next(iter(dataset))["lead_sheet.txt"] == write_lead_sheet(sheet)


def test_the_samples_hash_covers_it(tmp_path, write, with_sheet):
    (entry,) = write(tmp_path, [[with_sheet]]).shards
    found = members(tmp_path / entry.name)
    assert list(found)[-1] == "ballad_000.lead_sheet.txt"
    assert hashlib.sha256(b"".join(found.values())).hexdigest() == entry.segments[0].sha256
    assert sample_sha256(replace(with_sheet, lead_sheet=with_sheet.lead_sheet.shifted(2))) != entry.segments[0].sha256


def test_without_one_nothing_says_so(tmp_path, write, make_sample):
    write(tmp_path, [[make_sample()]])
    assert b"lead_sheet" not in (tmp_path / "shard-000000.tar").read_bytes()
    assert b"lead_sheet" not in (tmp_path / "manifest.json").read_bytes()
    assert text_identity("folk", "la") == text_identity("folk", "la", None) != text_identity("folk", "la", "0" * 64)


def test_its_identity_is_what_it_says_and_not_how_it_is_written(sheet):
    assert (
        lead_sheet_identity(sheet) == lead_sheet_identity(sheet.model_copy()) != lead_sheet_identity(sheet.shifted(1))
    )
    assert lead_sheet_identity(None) is None


def test_a_sample_that_lost_its_sheet_is_found_and_not_salvaged(tmp_path, write, with_sheet, make_sample):
    (entry,) = write(tmp_path, [[with_sheet], [make_sample("other")]]).shards
    path, spec = tmp_path / entry.name, ACE_STEP_1
    assert [sample.lead_sheet for sample in salvage(tmp_path, entry, spec)] == [with_sheet.lead_sheet, None]
    content = path.read_bytes()
    path.write_bytes(content.replace(b"| Am |", b"| Dm |"))
    assert any(problem.sample == "ballad_000" for problem in verify(tmp_path))
    assert [sample.meta.song for sample in salvage(tmp_path, entry, spec)] == ["other"]
    assert check_sample(replace(with_sheet, lead_sheet=None), spec) == [
        "its note names a lead sheet, and it holds none"
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"key: H minor\n", "shard, sample a, lead_sheet.txt, line 1: 'H minor' is no key"),
        (b"bpm: 100\n| Am | quack |\n", "shard, sample a, lead_sheet.txt, line 2: 'quack' is no chord"),
        (b"\xff\xfe", "shard, sample a: cannot be decoded ('utf-8'"),
    ],
)
def test_a_damaged_sheet_is_one_line(tmp_path, write, with_sheet, text, complaint):
    write(tmp_path, [[with_sheet]])
    found = {
        name.partition(".")[2].removesuffix(".npy"): c for name, c in members(tmp_path / "shard-000000.tar").items()
    }
    with pytest.raises(UserError) as caught:
        decode_sample("shard", "a", found | {"lead_sheet.txt": text})
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_flipped_byte_of_it_is_told(tmp_path, write, with_sheet, place, byte):
    write(tmp_path, [[with_sheet]])
    path = tmp_path / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    text = write_lead_sheet(with_sheet.lead_sheet).encode()
    at = content.index(text) + place % len(text)
    if content[at] == byte:
        return
    content[at] = byte
    path.write_bytes(content)
    assert verify(tmp_path) != []
    for sample in salvage(tmp_path, read_manifest(tmp_path).shards[0], ACE_STEP_1):
        assert sample.lead_sheet == with_sheet.lead_sheet

"""A lead sheet beside a song: cut to its segments, noticed when it changes, and nothing where there is none."""

import tarfile

import pytest

from common.music.notation import read_lead_sheet
from prep.building.repair import rebuild_damaged
from prep.config import PrepConfig, SegmentConfig, TextConfig
from prep.reports.inspect import summary, table
from shards.reader import read_song
from shards.verify import verify

SHEET = "key: G major\nbpm: 240\noffset: 0.1\n| G | C | D . . G~50 | G | C | D |\n"


def members(shard):
    with tarfile.open(shard) as tar:
        return {member.name: content.read() for member in tar if (content := tar.extractfile(member))}


SEGMENTS = PrepConfig(segment=SegmentConfig(max_seconds=3.0, search_seconds=0.9))


def give(raw, key, text):
    (raw / f"{key}_lead_sheet.txt").write_text(text, encoding="utf-8")


@pytest.fixture
def two_songs(tmp_path, song, build):
    """Shards of songs a, which has a lead sheet, and b, in two segments each."""
    for seed, key in enumerate("ab"):
        song(tmp_path / "raw", key, seed=seed, seconds=4.0)
    give(tmp_path / "raw", "a", SHEET)
    build(config=SEGMENTS)
    return tmp_path / "shards"


def test_each_segment_has_the_part_of_the_sheet_that_lies_in_it(two_songs):
    sheet = read_lead_sheet(SHEET)
    segments = read_song(two_songs, "a")
    assert len(segments) == 2
    for sample in segments:
        start, end = sample.meta.start_seconds, sample.meta.start_seconds + sample.meta.seconds
        assert sample.lead_sheet is not None
        assert sample.lead_sheet == sheet.cut(start, end)
        assert 0 < len(sample.lead_sheet.bars) < len(sheet.bars)
        inside = [beat - start for beat in sheet.beat_times() if start <= beat < end]
        found = [beat for beat in sample.lead_sheet.beat_times() if 0 <= beat < sample.meta.seconds]
        assert found == pytest.approx(inside, abs=1e-3)
    assert [sample.lead_sheet for sample in read_song(two_songs, "b")] == [None, None]
    assert verify(two_songs) == []
    assert summary(two_songs)["lead_sheets"] == 1
    assert "lead sheets: of 1 of 2 songs" in table(two_songs)


def test_an_edit_is_noticed_and_touches_no_sound_and_no_text(two_songs, tmp_path, build, hashes):
    raw, tar = tmp_path / "raw", two_songs / "shard-000000.tar"
    before = members(tar)
    give(raw, "a", "# my notes\n" + SHEET)
    assert (build(config=SEGMENTS).encoded, hashes(two_songs)) == ((), hashes(two_songs))
    assert members(tar) == before
    give(raw, "a", SHEET.replace("| G |", "| Em |"))
    report = build(config=SEGMENTS)
    assert (report.encoded, report.embedded) == ((), ())
    after = members(tar)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [f"a_00{n}.{field}" for n in range(2) for field in ("json", "lead_sheet.txt")]
    assert verify(two_songs) == []
    build("anew", config=SEGMENTS)
    assert hashes(tmp_path / "anew") == hashes(two_songs)


def test_a_sheet_that_comes_later_or_goes_leaves_the_bytes_of_a_build_that_began_so(two_songs, tmp_path, build, hashes):
    give(tmp_path / "raw", "b", SHEET)
    (tmp_path / "raw" / "a_lead_sheet.txt").unlink()
    assert build(config=SEGMENTS).encoded == ()
    build("anew", config=SEGMENTS)
    assert hashes(tmp_path / "anew") == hashes(two_songs)
    (tmp_path / "raw" / "b_lead_sheet.txt").unlink()
    build(config=SEGMENTS)
    assert b"lead_sheet" not in (two_songs / "shard-000000.tar").read_bytes()
    assert b"lead_sheet" not in (two_songs / "manifest.json").read_bytes()


def test_other_text_settings_keep_the_sheet_of_a_song_that_has_gone(two_songs, tmp_path, build):
    sheets = [sample.lead_sheet for sample in read_song(two_songs, "a")]
    for path in list((tmp_path / "raw").glob("a_*")):
        path.unlink()
    build(config=SEGMENTS.model_copy(update={"text": TextConfig(tag_orders=2)}))
    assert [sample.lead_sheet for sample in read_song(two_songs, "a")] == sheets
    assert verify(two_songs) == []


def test_a_damaged_shard_is_made_again_with_it(two_songs, tmp_path, hashes):
    before = hashes(two_songs)
    (two_songs / "shard-000000.tar").write_bytes(b"")
    rebuild_damaged(two_songs, tmp_path / "raw", checkpoint="tiny", devices=["cpu"], ssl_folder=None, workers=1)
    assert hashes(two_songs) == before

"""Lead sheets by measurement: right on songs that are known, and never over a person's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.command import run
from common.music.notation import read_lead_sheet
from prep.captions.lead_sheets import measure_lead_sheets
from prep.cli import app
from prep.made_up.folder import make_songs
from prep.made_up.truth import SongTruth
from prep.sources.scan import scan

SEED = 600_001


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Two songs with the sheets that were measured of them."""
    raw = tmp_path_factory.mktemp("measured") / "raw"
    make_songs(raw, songs=2, seconds=8.0, seed=SEED)
    assert [one.outcome for one in measure_lead_sheets(raw)] == ["written", "written"]
    return raw


@pytest.fixture
def raw(measured, tmp_path) -> Path:
    return shutil.copytree(measured, tmp_path / "raw")


def test_the_sheets_are_those_of_the_songs_and_the_next_build_reads_them(measured):
    for song in scan(measured).songs:
        truth = SongTruth.model_validate_json((measured / f"{song.key}_truth.json").read_bytes())
        assert song.lead_sheet is not None
        assert song.lead_sheet.bpm == pytest.approx(truth.tempo_bpm, rel=0.02)
        beats = song.lead_sheet.beat_times()
        assert np.mean([np.abs(beats - beat).min() < 0.07 for beat in truth.beats]) > 0.9


def test_what_is_there_stays_unless_it_is_to_be_replaced(raw, capsys):
    mine = raw / f"song-{SEED:06d}_lead_sheet.txt"
    measured_text = mine.read_bytes()
    mine.write_text("bpm: 100\n| C |\n")
    assert [one.outcome for one in measure_lead_sheets(raw)] == ["has one", "has one"]
    assert mine.read_text() == "bpm: 100\n| C |\n"
    assert [one.outcome for one in measure_lead_sheets(raw, overwrite=True)] == ["written", "as it was"]
    assert mine.read_bytes() == measured_text


def test_a_dry_run_writes_nothing_and_tells_all(raw, capsys):
    (path,) = [each for each in raw.glob("*_lead_sheet.txt") if str(SEED) in each.name]
    text = path.read_text()
    path.unlink()
    with pytest.raises(SystemExit) as stopped:
        run(app, ["lead-sheets", str(raw), "--dry-run", "--json"])
    assert stopped.value.code == 0
    assert not path.exists()
    one, other = json.loads(capsys.readouterr().out)
    assert (one["outcome"], one["text"], one["file"]) == ("to write", text, path.name)
    assert one["summary"].endswith(f"{len(read_lead_sheet(text).bars)} bars")
    assert other["outcome"] == "has one"


def test_a_song_that_cannot_be_read_or_heard_loses_no_other(raw, capsys):
    for path in raw.glob("*_lead_sheet.txt"):
        path.unlink()
    (raw / f"song-{SEED:06d}_inst.flac").write_bytes(b"no audio")
    write_audio(raw / "rest.wav", np.zeros((2, 44_100), np.float32), 44_100)
    with pytest.raises(SystemExit):
        run(app, ["lead-sheets", str(raw)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "rest: nothing is heard that has beats"
    assert said[1].startswith(f"song-{SEED:06d}: ")
    assert said[-1] == "1 lead sheets written, 1 of which nothing is heard, 1 that cannot be read"


def test_the_band_is_what_the_vocal_leaves_of_the_mix(raw):
    """Without the inst the same sheet comes of mix and vocal."""
    path = raw / f"song-{SEED:06d}_lead_sheet.txt"
    text = path.read_text()
    path.unlink()
    (raw / f"song-{SEED:06d}_inst.flac").unlink()
    measure_lead_sheets(raw)
    assert read_lead_sheet(path.read_text()).bpm == read_lead_sheet(text).bpm


def test_chords_of_a_lab_file_go_on_the_beats_that_were_measured(raw):
    path = raw / f"song-{SEED:06d}_lead_sheet.txt"
    before = read_lead_sheet(path.read_text())
    (raw / f"song-{SEED:06d}_chords.lab").write_text("0.0\t4.0\tEb:maj\n4.0\t9.0\tN\n")
    measure_lead_sheets(raw, overwrite=True)
    sheet = read_lead_sheet(path.read_text())
    assert sheet.starts.tolist() == before.starts.tolist()
    assert {one.chord and one.chord.root for one in sheet.chord_segments() if 0.5 < one.start < 3} == {3}
    assert {one.chord for one in sheet.chord_segments() if one.start > 4.5} == {None}

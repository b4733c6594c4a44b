"""Questions about a build: what it would take, how shards stand to their songs, what they look like."""

import json
from pathlib import Path

import pytest
from PIL import Image

from common.command import run
from prep.cli import app


@pytest.fixture
def prep(capsys, monkeypatch, tmp_path):
    """Run prep in tmp_path: prep("status", "shards", "raw") -> stdout."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(app, arguments)
        printed = capsys.readouterr()
        assert stopped.value.code == 0, printed.err
        return printed.out

    return call


@pytest.fixture
def built(prep, song):
    """Shards of songs a, b, c, d in the folder raw, then all kinds of changes to it."""
    raw = Path("raw")
    for seed, key in enumerate("abcd"):
        song(raw, key, seed=seed)
    song(raw, "short", seconds=0.7, seed=7)
    prep("build-shards", "raw", "shards", "--checkpoint-dir", "tiny", "--workers", "1")
    (raw / "b_prompt.txt").write_text("jazz")
    song(raw, "c", seed=9)
    for path in raw.glob("d_*"):
        path.unlink()
    song(raw, "e", seed=5)
    song(raw, "lone", parts=("vocal",), seed=6)
    (raw / "cover.jpg").touch()
    (raw / "d_prompt.txt").touch()


def test_status_says_what_became_of_each_song_and_why(prep, built):
    found = json.loads(prep("status", "shards", "raw", "--json"))
    assert found == {
        "fresh": ["a"],
        "stale": {
            "b": "its prompt, lyrics or lead sheet changed; prep build-shards makes its texts anew",
            "c": "its audio changed; prep build-shards --rebuild makes it anew",
        },
        "missing": ["e"],
        "gone": ["d"],
        "rejected": {
            "lone": "orphan_stem: lone_vocal.wav: one stem alone. Add the mix or the other stem.",
            "short": "too_short: 0.70 s without its outer silence is shorter than segment.min_seconds (1 s).",
        },
        "noted": {},
        "unused": ["cover.jpg", "d_prompt.txt"],
    }
    lines = prep("status", "shards", "raw").splitlines()
    assert lines[-3:] == ["files that nobody used: 2", "  cover.jpg", "  d_prompt.txt"]
    assert lines[:5] == [
        "fresh: 1",
        "stale: 2",
        "  b: its prompt, lyrics or lead sheet changed; prep build-shards makes its texts anew",
        "  c: its audio changed; prep build-shards --rebuild makes it anew",
        "missing: 1",
    ]


def test_exchanged_folders_are_told(capsys, tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(SystemExit) as stopped:
        run(app, ["status", str(tmp_path / "raw"), str(tmp_path / "shards")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'raw'}: no manifest.json here.")


def test_status_names_a_changed_setting(prep, built):
    found = json.loads(prep("status", "shards", "raw", "--json", "--set", "loudness.target_lufs=-16.0"))
    why = "loudness.target_lufs was -14.0, is -16.0; prep build-shards --rebuild makes it anew"
    assert (found["fresh"], found["stale"]["a"]) == ([], why)
    found = json.loads(prep("status", "shards", "raw", "--json", "--set", "text.seed=3"))
    assert found["stale"]["a"] == "text.seed was 0, is 3; prep build-shards makes its texts anew"


def test_plan_says_what_a_build_would_take_and_writes_nothing(prep, song, monkeypatch):
    monkeypatch.setattr("prep.reports.estimate.MEASURED_SECONDS", 1.0)
    for seed, key in enumerate("ab"):
        song(Path("raw"), key, seed=seed, seconds=3.0)
    song(Path("raw"), "full", parts=("song",), seed=2, seconds=3.0)
    found = json.loads(prep("plan", "raw", "shards", "--checkpoint-dir", "tiny", "--json", "--workers", "1"))
    assert not Path("shards").exists()
    assert (found["songs"], found["unreadable"], found["shards"], found["workers"]) == (3, 0, 1, 1)
    assert found["hours"] == pytest.approx(9 / 3600)
    assert 0 < found["hours_of_work"] < 0.1
    assert found["rejected"] == {}
    Path("raw/c.mp3").write_bytes(b"")
    Path("raw/c_lead_sheet.txt").write_text("junk", encoding="utf-8")
    told = prep("plan", "raw", "shards", "--checkpoint-dir", "tiny")
    assert "3 songs to encode, 0.00 hours of audio\nshards: about 1, " in told
    assert "\nrejected: 1 song; the first, c: " in told
    Path("raw/c.mp3").unlink()
    Path("raw/c_lead_sheet.txt").unlink()
    prep("build-shards", "raw", "shards", "--checkpoint-dir", "tiny", "--workers", "1")
    size = sum(path.stat().st_size for path in Path("shards").glob("*.tar"))
    assert size / 3 < found["gigabytes"] * 1e9 < size * 3  # the tiny text encoder's states are narrow
    assert json.loads(prep("plan", "raw", "shards", "--checkpoint-dir", "tiny", "--json"))["songs"] == 0


def test_inspect_draws_what_shards_hold(prep, song):
    for seed, key in enumerate("ab"):
        song(Path("raw"), key, seed=seed, seconds=2.0 + seed)
    prep("build-shards", "raw", "shards", "--checkpoint-dir", "tiny", "--workers", "1")
    prep("inspect", "shards", "--plots", "pictures")
    names = ["durations", "latent", "vocal_activity", "vocal_lufs"]
    assert [path.stem for path in sorted(Path("pictures").iterdir())] == names
    for path in Path("pictures").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.width == 640
            assert len(picture.getcolors(1 << 16) or ()) > 10

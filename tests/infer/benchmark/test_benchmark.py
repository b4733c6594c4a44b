"""`infer benchmark` from a data set to its table: right by hand, the same twice, and resumed where it was stopped."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.command import run
from infer.band.session import Session, SessionCancelledError
from infer.benchmark.anchors import TrueBands
from infer.benchmark.bands import BandOptions
from infer.benchmark.benchmark import BenchmarkRequest, benchmark, means_over_songs, song_values
from infer.benchmark.excerpts import Excerpt, ExcerptNote
from infer.benchmark.measured import Measured
from infer.cli import app

ROOT = Path(__file__).resolve().parents[3]
KEYS = ("Ann - One_0000s", "Ben - Two_0000s")
TAKES = 3


def request(musdb: Path, adapter: Path, out: Path) -> list[str]:
    theirs = f"theirs={out.parent / 'theirs'}"
    flags = ["--adapter", adapter, "--system", theirs, "--excerpt-seconds", "2", "--infer-steps", "1"]
    return [str(word) for word in ("benchmark", musdb, *flags, "--output-dir", out, "--device", "cpu")]


def do(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(app, words)
    assert stopped.value.code == 0


def files(folder: Path, pattern: str) -> dict[str, int]:
    """Files below a folder, each with the time of its last change."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob(pattern)}


def make_theirs(out: Path) -> None:
    """The bands of another program: the true ones, each at another level."""
    for number, key in enumerate(KEYS):
        samples, rate_hz = soundfile.read(out / "excerpts" / f"{key}_inst.wav")
        (out.parent / "theirs").mkdir(exist_ok=True)
        soundfile.write(out.parent / "theirs" / f"{key}.wav", samples / (number + 2), rate_hz, subtype="FLOAT")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Where the benchmark of this module goes."""
    return tmp_path_factory.mktemp("benchmark") / "out"


@pytest.fixture(scope="module")
def stopped(musdb, adapter, out) -> dict[str, int]:
    """What a benchmark had done when it was stopped, a little after the first band of text2music."""
    checks = iter(range(10_000))
    session = Session(is_cancelled=lambda: (out / "units" / "bands" / "text2music").is_dir() and next(checks) > 1)
    asked = BenchmarkRequest(
        dataset=musdb,
        adapters=(adapter,),
        output_dir=out,
        excerpt_seconds=2.0,
        options=BandOptions(infer_steps=1, device="cpu"),
    )
    with pytest.raises(SessionCancelledError):
        benchmark(asked, session)
    return files(out, "*.*")


@pytest.fixture(scope="module")
def done(stopped, musdb, adapter, out) -> Path:
    """The folder of that benchmark, started again, with a folder of another program's bands."""
    make_theirs(out)
    do(request(musdb, adapter, out))
    return out


@pytest.fixture(scope="module")
def found(done) -> dict:
    return json.loads((done / "benchmark.json").read_text(encoding="utf-8"))


def test_what_was_done_before_the_stop_is_kept(stopped, done):
    bands = [path for path in stopped if path.startswith("units/bands/")]
    assert 0 < len(bands) < 2 * len(KEYS)
    after = files(done, "*.*")
    assert {path: after[path] for path in stopped} == stopped


def level_over_vocal_db(out: Path, band: Path, key: str) -> float:
    levels = (np.sqrt(np.mean(soundfile.read(path)[0] ** 2)) for path in (band, out / "excerpts" / f"{key}_vocal.wav"))
    return 20 * math.log10(next(levels) / next(levels))


def test_the_table_is_what_a_hand_computes(done, found):
    """The level of another program's bands over the vocals. Of two songs a bootstrap draws the same one twice in a
    quarter of its draws each, so that the interval reaches both.
    """
    songs = [level_over_vocal_db(done, done.parent / "theirs" / f"{key}.wav", key) for key in KEYS]
    (mean,) = (m for m in found["means"] if (m["measure"], m["system"]) == ("sanity.over_vocal_db", "theirs"))
    assert mean["mean"]["value"] == pytest.approx(np.mean(songs), abs=1e-4)
    assert (mean["mean"]["low"], mean["mean"]["high"]) == pytest.approx((min(songs), max(songs)), abs=1e-4)
    assert mean["songs"] == 2
    page = (done / "benchmark.html").read_text(encoding="utf-8")
    row = page.partition("sanity: level over the vocal, dB")[2].partition("</tr>")[0]
    assert f"{np.mean(songs):.1f}" in row


def test_three_seeds_are_averaged(done, found):
    name = found["systems"][0]["name"]
    bands = sorted((done / "bands" / name).glob(f"{KEYS[0]}_accompaniment_*.wav"))
    assert [soundfile.info(path).frames for path in bands] == [2 * 48_000] * TAKES
    (song,) = (s for s in found["songs"] if (s["song"], s["system"]) == ("Ann - One", name))
    levels = [level_over_vocal_db(done, path, KEYS[0]) for path in bands]
    assert song["values"]["sanity.over_vocal_db"] == pytest.approx(np.mean(levels), abs=0.02)


def test_excerpts_are_averaged_in_a_song_before_songs_are(tmp_path):
    """A song of three excerpts counts as much as one of one."""
    notes = [
        ExcerptNote(key=f"{song}{at}", song=song, start_seconds=at, seconds=1, vocal_sha256="", true_sha256="")
        for song, at in (("a", 0), ("a", 1), ("a", 2), ("b", 0))
    ]
    excerpts = [Excerpt(note, tmp_path, tmp_path) for note in notes]
    measured = [
        Measured({"m": value}, faults) for value, faults in ((1.0, ("dc",)), (2.0, ()), (6.0, ("dc",)), (5.0, ()))
    ]
    songs = list(song_values([TrueBands()], excerpts, {"true": measured}))
    assert [(song.song, song.values, song.faults) for song in songs] == [
        ("a", {"m": 3.0}, {"dc": 2}),
        ("b", {"m": 5.0}, {}),
    ]
    (mean,) = means_over_songs(songs, [TrueBands()])
    assert (mean.mean.value, mean.mean.low, mean.mean.high, mean.songs) == (4.0, 3.0, 5.0, 2)


def test_anchors_stand_beside_the_systems_in_their_order(found, adapter):
    systems = [system["name"] for system in found["systems"]]
    assert systems == [adapter.name, "theirs", "true", "codec", "text2music", "shuffled"]
    means = {(mean["measure"], mean["system"]): mean["mean"]["value"] for mean in found["means"]}
    assert means["rhythm.beat_f", "true"] == means["rhythm.beat_f", "theirs"] == 1.0
    assert means["rhythm.beat_f", "shuffled"] < 1.0
    sets = {(figure["measure"], figure["system"]): figure["value"] for figure in found["sets"]}
    assert sets["mel_fd", "true"] == pytest.approx(0.0, abs=1e-6)
    assert sets["mel_apa", "true"] == pytest.approx(1.0)
    assert sets["mel_apa", "shuffled"] == pytest.approx(0.0)
    seeds = {figure["system"]: figure["seeds"] for figure in found["sets"]}
    assert seeds == dict.fromkeys(systems, 1) | dict.fromkeys((adapter.name, "text2music"), TAKES)


def test_text2music_plays_another_band_to_each_excerpt(done):
    """Its prompt may be the same for all: the seed of each excerpt is its own."""
    first = [soundfile.read(done / "bands" / "text2music" / f"{key}_accompaniment_01.wav")[0] for key in KEYS]
    assert not np.allclose(first[0], first[1], atol=1e-3)


def test_the_same_bands_give_the_same_bytes_and_only_what_is_missing_is_made(done, musdb, adapter):
    before = {name: (done / name).read_bytes() for name in ("benchmark.json", "benchmark.html")}
    kept = files(done / "units", "*.json")
    gone = [f"measures/theirs/{KEYS[0]}.json", f"measures/codec/{KEYS[1]}.json"]
    for name in gone:
        (done / "units" / name).unlink()
    do(request(musdb, adapter, done))
    assert {name: (done / name).read_bytes() for name in before} == before
    assert {name for name, changed in files(done / "units", "*.json").items() if kept[name] != changed} == set(gone)


def test_a_folder_that_lacks_a_band_ends_it_before_anything_is_made(done, musdb, capsys, tmp_path):
    (tmp_path / "theirs").mkdir()
    words = ["benchmark", str(musdb), "--system", f"theirs={tmp_path / 'theirs'}", "--excerpt-seconds", "2"]
    with pytest.raises(SystemExit) as stopped:
        run(app, [*words, "--output-dir", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert f"{KEYS[0]}.wav is missing (2 of 2 excerpts are)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "units").exists()


@pytest.mark.slow
def test_what_was_done_before_kill_9_is_kept(done, musdb, adapter, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "theirs").symlink_to(done.parent / "theirs")
    code = "import sys; from common.command import run; from infer.cli import app; run(app, sys.argv[1:])"
    command = [sys.executable, "-c", code, *request(musdb, adapter, out)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        while len(list((out / "units").rglob("*.json"))) < 8 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = files(out / "units", "*.json")
    assert 8 <= len(kept) < len(files(done / "units", "*.json"))
    do(request(musdb, adapter, out))
    assert {name: changed for name, changed in files(out / "units", "*.json").items() if name in kept} == kept
    assert (out / "benchmark.json").read_bytes() == (done / "benchmark.json").read_bytes()

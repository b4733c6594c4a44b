"""`infer evaluate` from files to its report, with every anchor that the files allow."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.audio.wave import read_audio, resample, write_audio
from common.command import run
from infer.cli import app
from infer.evaluate.evaluate import next_song
from infer.evaluate.items import EvaluationItem, read_items
from prep.made_up.folder import make_songs

SONGS, SECONDS = 3, 4.0
WITHOUT_CODEC = {"result", "true", "shuffled", "vocal", "noise"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """raw/ songs and outputs/ as `infer generate --num-samples 2` leaves them: true bands with the voice in them."""
    folder = tmp_path_factory.mktemp("evaluated")
    make_songs(folder / "raw", songs=SONGS, seconds=SECONDS, seed=9002)
    for path in sorted((folder / "raw").glob("*_inst.flac")):
        key = path.stem.removesuffix("_inst")
        band = read_audio(path).samples
        voice = read_audio(path.with_name(f"{key}_vocal.flac")).samples
        for number, leak in ((1, 0.1), (2, 0.3)):
            wave = resample(0.7 * band + leak * voice, 44_100, 48_000)
            write_audio(folder / "outputs" / f"{key}_accompaniment_0{number}.wav", wave, 48_000)
    return folder


def evaluate(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        run(app, ["evaluate", *map(str, arguments)])
    return stopped.value.code


@pytest.fixture(scope="module")
def report(folder) -> Path:
    out = folder / "report"
    arguments = ("--items", folder / "outputs", "--truth", folder / "raw", "--checkpoint-dir", "tiny")
    assert evaluate(*arguments, "--text2music", folder / "outputs", "--output-dir", out) == 0
    return out


def test_every_system_has_its_means_within_their_intervals(report):
    found = json.loads((report / "evaluation.json").read_text())
    assert {mean["system"] for mean in found["means"]} == WITHOUT_CODEC | {"codec", "text2music"}
    for mean in found["means"]:
        bounds = mean["mean"]
        assert bounds["low"] - 1e-9 <= bounds["value"] <= bounds["high"] + 1e-9
        assert 1 <= mean["clips"] <= SONGS


def test_two_results_of_one_vocal_are_measured_without_anchors_that_need_two(folder, tmp_path):
    (vocal, *_) = sorted((folder / "raw").glob("*_vocal.flac"))
    true = vocal.with_name(vocal.name.replace("_vocal", "_inst"))
    rows = [{"key": key, "vocal": str(vocal), "accompaniments": [str(true)], "true": str(true)} for key in ("a", "b")]
    (tmp_path / "items.json").write_text(json.dumps(rows), encoding="utf-8", newline="\n")
    assert evaluate("--items", tmp_path / "items.json", "--output-dir", tmp_path / "report") == 0
    found = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))
    assert found["sets"] == {}
    assert "mel-FD, mel-KAD, mel-APA: need two vocals with true accompaniments." in found["notes"]
    assert {mean["system"] for mean in found["means"]} == WITHOUT_CODEC - {"shuffled"}


def test_anchors_stand_where_they_belong(report):
    found = json.loads((report / "evaluation.json").read_text())
    means = {(mean["measure"], mean["system"]): mean["mean"]["value"] for mean in found["means"]}
    assert means["harmony.z", "true"] >= means["harmony.z", "codec"]
    assert means["leakage.fine", "true"] < means["leakage.fine", "result"] < means["leakage.fine", "vocal"]
    assert means["rhythm.beat_f", "true"] == 1.0
    assert means["rhythm.beat_f", "result"] > means["rhythm.beat_f", "shuffled"]
    assert 0 < means["diversity.distance_db", "result"] < means["diversity.distance_db", "shuffled"]
    assert found["sets"]["true"]["mel_fd"] == pytest.approx(0.0, abs=1e-6)
    assert found["sets"]["true"]["mel_apa"] == pytest.approx(1.0)
    assert found["sets"]["shuffled"]["mel_apa"] == pytest.approx(0.0)
    assert found["sets"]["result"]["mel_fd"] < found["sets"]["noise"]["mel_fd"]


def test_the_page_holds_everything_and_the_plots_are_pictures(report):
    page = (report / "evaluation.html").read_text()
    assert not re.findall(r'(?:src|href)="?\'?(?!data:)(?:https?:|/|\.)', page)
    for key in (f"song-00900{number}" for number in (2, 3, 4)):
        picture = np.asarray(Image.open(report / "plots" / f"{key}.png"))
        assert picture.shape[2] == 3
        assert len(np.unique(picture[::8, ::8].reshape(-1, 3), axis=0)) > 50
        assert f"<h2>{key}</h2>" in page


def test_one_item_of_a_list_without_truth_says_what_it_lacks(folder, tmp_path, capsys):
    """Its key is shown as it is written, also where it looks like markup."""
    raw, outputs = folder / "raw", folder / "outputs"
    item = {
        "key": "rock & roll",
        "vocal": str(raw / "song-009002_vocal.flac"),
        "accompaniments": [str(outputs / "song-009002_accompaniment_01.wav")],
    }
    (tmp_path / "items.json").write_text(json.dumps([item]))
    assert evaluate("--items", tmp_path / "items.json", "--output-dir", tmp_path / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {mean["system"] for mean in found["means"]} == {"result", "vocal", "noise"}
    assert found["sets"] == {}
    notes = "\n".join(found["notes"])
    for lacking in ("1 of 1 vocals have no true accompaniment", "--checkpoint-dir", "--text2music", "--num-samples 2"):
        assert lacking in notes
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "<h2>rock &amp; roll</h2>" in page


def test_the_shuffled_pair_is_of_another_song_where_one_vocal_has_several_results():
    items = [
        EvaluationItem(key, Path(vocal), (), None, ())
        for key, vocal in (("a", "a"), ("a_2", "a"), ("b", "b"), ("a_3", "a"))
    ]
    assert [next_song(items, number).key for number in range(4)] == ["b", "b", "a_3", "b"]
    assert next_song(items[:2], 0) is items[0]


def test_a_folder_without_bands_is_one_line(folder, tmp_path, capsys):
    assert evaluate("--items", folder / "raw", "--output-dir", tmp_path) == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: {folder / 'raw'}: holds no KEY_accompaniment.wav. Name a folder that infer generate filled.\n"
    )


def test_a_vocal_that_nobody_knows_is_one_line(folder, tmp_path, capsys):
    assert evaluate("--items", folder / "outputs", "--output-dir", tmp_path) == 2
    assert capsys.readouterr().err == (
        "error: song-009002: its vocal is not known. Name the folder that holds song-009002_vocal.* with --truth.\n"
    )


def test_a_silent_vocal_is_one_line(tmp_path, capsys):
    write_audio(tmp_path / "raw" / "a_vocal.wav", np.zeros((1, 48_000), dtype=np.float32), 48_000)
    write_audio(tmp_path / "out" / "a_accompaniment.wav", np.ones((2, 48_000), dtype=np.float32) / 2, 48_000)
    assert evaluate("--items", tmp_path / "out", "--truth", tmp_path / "raw") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'raw' / 'a_vocal.wav'}: is silent, so no band can be measured against it. Leave it out.\n"
    )


def test_true_stems_are_found_under_common_names_and_no_result_passes_for_one(tmp_path):
    for name in ("out/a_accompaniment.wav", "out/b_accompaniment.wav", "a_Vocals.wav", "a-instrumental.wav",
                 "b_vocal.wav", "b_Vocals.wav", "b_inst.wav", "b_no_vocals.wav"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {item.key: (item.vocal.name, item.true and item.true.name) for item in
             read_items(tmp_path / "out", truth=tmp_path, text2music=None)}  # fmt: skip
    assert found == {"a": ("a_Vocals.wav", "a-instrumental.wav"), "b": ("b_vocal.wav", "b_inst.wav")}

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.command import run
from infer.band.generate import generate
from infer.cli import app
from infer.compare.compare import Comparison, compare
from infer.compare.inputs import model_names
from infer.compare.ratings import read_sheets
from infer.request.request import GenerationRequest


def outcome(capsys, *arguments):
    """Exit code, stdout and stderr of `infer compare ...`."""
    with pytest.raises(SystemExit) as stopped:
        run(app, ["compare", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def write_json(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


@pytest.fixture
def test_set(tmp_path, make_voice) -> Path:
    """Two vocals, and one that is not there."""
    for number, seconds in ((1, 0.7), (2, 0.9)):
        write_audio(tmp_path / f"v{number}.wav", make_voice(seconds, 48_000), 48_000)
    items = [{"key": f"song{n}", "vocal_path": f"v{n}.wav", "prompt": f"piano, {n}bpm"} for n in (1, 2)]
    items.append({"key": "song3", "vocal_path": "v3.wav", "prompt": "organ"})
    return write_json(tmp_path / "test_set.json", items)


@pytest.fixture
def half(tmp_path, adapter) -> Path:
    """The adapter under other settings, in the older spelling."""
    return write_json(tmp_path / "half.json", {"lora_path": str(adapter), "lora_weight": 0.4, "ref_strength": 0.3})


def state(folder: Path) -> dict[str, int]:
    """When each file was written; those in sounds/ are the outputs' own."""
    paths = [path for path in folder.rglob("*.*") if path.parent.name != "sounds"]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Folders in which a file was written or has gone."""
    return {str(Path(name).parent) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_every_adapter_plays_every_sample_once(test_set, adapter, half, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--test_set", test_set, "--lora_configs", adapter, half, "--infer_steps", 1, "--device", "cpu"]
    code, printed, err = outcome(capsys, *arguments, "--output_dir", out)
    assert (code, printed) == (0, f"{out / 'comparison.html'}\n")
    assert f"warning: {test_set}: song3 is left out: v3.wav: no such file.\n" in err
    folders = {f"models/{model}/song{n}" for model in ("adapter", "half") for n in (1, 2)}
    assert changed({}, state(out)) == folders | {".", "vocals/song1", "vocals/song2"}

    alone = generate(
        GenerationRequest(
            adapters=(adapter,), vocal=tmp_path / "v2.wav", prompt="piano, 2bpm", lora_weights=(0.4,), ref_strength=0.3,
            infer_steps=1, device="cpu", output_dir=tmp_path / "alone",
        )
    )  # fmt: skip
    (band,) = alone.accompaniments
    assert (out / "models" / "half" / "song2" / "song2_accompaniment.wav").read_bytes() == band.read_bytes()

    (sheets,) = read_sheets([out / "ratings_template.json"])
    assert [(sheet.sample_id, sheet.model) for sheet in sheets.ratings] == [
        ("song1", "adapter"), ("song1", "half"), ("song2", "adapter"), ("song2", "half")
    ]  # fmt: skip

    before = state(out)
    comparison = Comparison(
        test_set=test_set, adapters=(adapter, half), output_dir=out, infer_steps=1, device="cpu", seed=0
    )
    compare(comparison)
    assert changed(before, state(out)) == {"."}  # the page alone

    before = state(out)
    (out / "models" / "half" / "song1" / "song1_mix.wav").unlink()
    write_json(half, {**json.loads(half.read_text()), "lora_path": str(adapter)})
    compare(comparison)
    assert changed(before, state(out)) == {".", "models/half/song1"}

    before = state(out)
    write_json(half, {**json.loads(half.read_text()), "ref_strength": 0.9})
    compare(comparison)
    assert changed(before, state(out)) == {".", "models/half/song1", "models/half/song2"}
    made = {path.read_bytes() for path in (out / "models").rglob("*_mix.wav")}
    assert made <= {path.read_bytes() for path in (out / "sounds").glob("*.wav")}


def test_an_adapter_of_whole_mixes_has_no_band(test_set, make_adapter, tmp_path):
    folder = make_adapter(output_type="mix")
    out = tmp_path / "out"
    page = compare(Comparison(test_set=test_set, adapters=(folder,), output_dir=out, infer_steps=1, device="cpu"))
    assert '"band": null' in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'a test set is a list of {"key", "vocal_path", "prompt"}, at least one.'),
        ({"key": "a"}, 'a test set is a list of {"key", "vocal_path", "prompt"}, at least one.'),
        (["a"], "item 1: holds a str, not a JSON object {...}."),
        ([{"key": "a", "prompt": "b"}], "item 1: vocal_path: Field required"),
        (
            [{"key": "a", "vocal_path": "v", "prompt": "b", "promt": "c"}],
            "item 1: unknown key promt; did you mean prompt?",
        ),
        (
            [{"key": key, "vocal_path": "v", "prompt": "b"} for key in ("a", "A")],
            "item 2: key A is taken by an earlier item. Give each its own.",
        ),
        (
            [{"key": "a", "vocal_path": "v", "prompt": "b"}],
            "none of its 1 vocals can be used. Mend their vocal_path.",
        ),
    ],
)
def test_a_bad_test_set_is_one_line(tmp_path, adapter, capsys, content, message):
    path = write_json(tmp_path / "t.json", content)
    code, out, err = outcome(capsys, "--test-set", path, "--adapters", adapter, "--output-dir", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"error: {path}: {message}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["a/b", "..", ".a", "", "a\nb"])
def test_a_key_that_is_no_file_name_is_refused(tmp_path, adapter, capsys, key):
    path = write_json(tmp_path / "t.json", [{"key": key, "vocal_path": "v", "prompt": "b"}])
    code, _, err = outcome(capsys, "--test-set", path, "--adapters", adapter)
    assert code == 2
    assert err.startswith(f"error: {path}: item 1: key: String should match pattern")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/one", "b/two", "c/half.json"], ["one", "two", "half"]),
        (["a/adapter", "b/adapter", "c/other"], ["a", "b", "other"]),
        (
            ["x/version_0/checkpoints/step=60_lora", "y/version_1/checkpoints/step=60_lora"],
            ["x", "y"],
        ),
        (
            ["x/version_0/checkpoints/step=60_lora", "x/version_1/checkpoints/step=60_lora"],
            ["x version_0", "x version_1"],
        ),
        (["a/adapter", "a/adapter"], ["adapter", "adapter"]),
        (["a/adapter", "b/adapter.json"], ["adapter", "adapter"]),
    ],
)
def test_folders_that_share_a_name_are_called_by_their_runs(tmp_path, paths, names):
    assert model_names([tmp_path / path for path in paths]) == names


def test_bad_adapters_are_one_line(test_set, tmp_path, adapter, capsys):
    code, _, err = outcome(capsys, "--test-set", test_set, "--adapters", adapter, adapter)
    way_out = 'Name it by a JSON file of another name, {"lora_path": ...}.'
    assert (code, err) == (2, f"error: {adapter}: an earlier adapter is called adapter too. {way_out}\n")
    code, _, err = outcome(capsys, "--test-set", test_set, "--adapters", write_json(tmp_path / "m.json", {}))
    assert (code, err) == (2, f"error: {tmp_path / 'm.json'}: lora_path: Field required\n")
    code, _, err = outcome(capsys, "--test-set", test_set, "--adapters", *[adapter] * 25)
    assert (code, err) == (2, "error: 25 adapters: the page has letters for 24. Compare fewer at once.\n")


def test_a_silent_vocal_is_left_out(tmp_path, adapter, capsys):
    write_audio(tmp_path / "quiet.wav", np.zeros((1, 48_000), np.float32), 48_000)
    path = write_json(tmp_path / "t.json", [{"key": "q", "vocal_path": "quiet.wav", "prompt": "b"}])
    code, _, err = outcome(capsys, "--test-set", path, "--adapters", adapter, "--output-dir", tmp_path / "out")
    assert code == 2
    quiet = tmp_path / "quiet.wav"
    assert f"warning: {path}: q is left out: {quiet}: this vocal is silent. Give one that can be heard.\n" in err

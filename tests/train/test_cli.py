import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.command import run
from common.config import load_config
from train.cli import app
from train.config import TrainingConfig
from train.data.clips import ClipMaker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """command("run", "--config", ...) in tmp_path: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(app, arguments)
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return call


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    )


def examples():
    shown = python("-m", "train", "run", "--help")
    return [line.split("$ train ")[1] for line in shown.stdout.splitlines() if "$ train " in line]


@pytest.mark.parametrize("line", examples())
def test_the_examples_of_the_help_run(command, song_shards, line):
    code, out, err = command(*line.split(), "--set", "max_steps=2", "--set", "val_fraction=0")
    assert code == 0, err
    summary, _, adapter = out.strip().partition(": ")
    assert summary.startswith("step 2 after ")
    assert Path(adapter, "adapter.json").is_file()


def test_help_needs_no_torch():
    shown = python("-X", "importtime", "-m", "train", "run", "--help")
    assert shown.stdout.startswith("Usage: ")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "train.config" in imported
    assert not {"torch", "numpy", "lightning", "diffusers", "peft"} & imported


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config", "tiny_image2image", "--set", "lora.rr=4"],
            "tiny_image2image: unknown key lora.rr; did you mean r?",
        ),
        (["--config", "nowhere.json"], "nowhere.json: no such config file. Give a path, or one of the shipped names: "),
        (["--shards", "nothing"], "nothing: no manifest.json here. Make shards with: prep build-shards raw/ nothing"),
        (
            ["--resume", "--config", "tiny_controlnet"],
            "exps/logs/tiny_controlnet: no last.ckpt in any version of this experiment. Start it without --resume.",
        ),
        (["--resume", "--resume-from", "x"], "--resume and --resume-from both say where to go on. Leave one out."),
        (
            ["--resume-from", "x", "--config", "tiny_controlnet"],
            "x: no last.ckpt there. Give one, or the version folder that holds checkpoints/last.ckpt.",
        ),
        (
            ["--config", "tiny_controlnet", "--shards", "shards", "--checkpoint-dir", "./tiny"],
            "./tiny: no such folder. Give a checkpoint folder, a Hugging Face id (owner/name), or tiny.",
        ),
        (["--precision", "16"], "Invalid value for '--precision': Value error, '16' is not one of '32', 'bf16'."),
    ],
)
def test_a_mistake_is_one_line_and_code_2(command, song_shards, arguments, message):
    code, out, err = command("run", *arguments)
    assert (code, out) == (2, "")
    *said, last = err.splitlines()
    assert last.startswith(f"error: {message}")
    assert all(" steps of " in line for line in said)


def test_without_a_config_a_run_takes_the_preset_for_its_songs(command, song_shards):
    code, out, err = command("run", "--shards", "shards", "--set", "max_steps=7", "--print-config")
    assert (code, err) == (0, "no --config is given: taking tiny_controlnet\n")
    assert (json.loads(out)["exp_name"], json.loads(out)["max_steps"]) == ("tiny_controlnet", 7)
    manifest = song_shards / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"base": {"family": "ace-step-1"}}))
    code, out, err = command("run", "--shards", "shards", "--print-config")
    assert (code, err) == (0, "no --config is given: taking singer\n")
    assert json.loads(out)["lora"]["r"] == 16


def test_layers_past_the_bases_last_block_are_refused(command, song_shards):
    code, _, err = command(
        "run", "--config", "controlnet_base", "--shards", "shards", "--set", "accompaniment.control_encoder_dim=128"
    )
    assert code == 2
    assert err.splitlines()[-1] == (
        "error: injection_layers: this base has 6 blocks, 0 to 5; 6 is none of them. Use --set "
        "accompaniment.injection_layers=[0,1,2,3,4]."
    )


def test_print_config_shows_what_would_run(command):
    code, out, _ = command(
        "run",
        "--config",
        "tiny_controlnet",
        "--shards",
        "my shards",
        "--precision",
        "bf16",
        "--set",
        "lora.r=3",
        "--print-config",
    )
    assert code == 0
    Path("printed.json").write_text(out)
    printed = load_config(TrainingConfig, "./printed.json")
    assert (printed.dataset_path, printed.base_dtype, printed.lora.r) == ("my shards", "bfloat16", 3)
    assert printed.accompaniment.mode == "controlnet"


@pytest.mark.parametrize("verb", ["run", "search"])
def test_a_command_that_brings_shards_is_the_users_alone(command, verb):
    """A config from elsewhere runs nothing; the same words are taken from the command line."""
    brought = "pipe:touch ran; cat shards/{}"
    Path("theirs.json").write_text(json.dumps({"dataset_path": brought}), encoding="utf-8")
    code, _, err = command(verb, "--config", "./theirs.json")
    assert (code, err) == (
        2,
        f"error: ./theirs.json: dataset_path '{brought}' runs a command, which only you may give. "
        f"Leave it out and use --shards '{brought}'\n",
    )
    assert not Path("ran").exists()
    for given in (["--shards", brought], ["--set", f"dataset_path={brought}"]):
        code, out, _ = command("run", "--config", "tiny_image2image", *given, "--print-config")
        assert (code, json.loads(out)["dataset_path"]) == (0, brought)


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_saves_first_and_says_so_by_its_code(command, song_shards, monkeypatch, number, expected):
    plain = ClipMaker.cut

    def interrupting(maker, samples, **given):
        os.kill(os.getpid(), number)
        return plain(maker, samples, **given)

    monkeypatch.setattr(ClipMaker, "cut", interrupting)
    code, out, err = command("run", "--config", "tiny_image2image", "--shards", "shards", "--set", "val_fraction=0")
    assert code == expected
    assert out.startswith("step 1 after ")
    assert f"{number.name}: saving after this step (again: stop at once)" in err
    monkeypatch.setattr(ClipMaker, "cut", plain)
    code, out, _ = command(
        "run",
        "--config",
        "tiny_image2image",
        "--shards",
        "shards",
        "--set",
        "val_fraction=0",
        "--set",
        "max_steps=2",
        "--resume",
    )
    assert code == 0
    assert out.startswith("step 2 after ")
    assert "version_0" in out


def test_a_second_ctrl_c_ends_a_run_at_once(command, song_shards, monkeypatch):
    def interrupting(maker, samples, **given):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ClipMaker, "cut", interrupting)
    before = signal.getsignal(signal.SIGINT)
    code, out, _ = command("run", "--config", "tiny_image2image", "--shards", "shards", "--set", "val_fraction=0")
    assert (code, out) == (130, "")
    assert signal.getsignal(signal.SIGINT) == before
    assert not list(Path("exps").rglob("last.ckpt"))

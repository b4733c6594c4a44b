"""What is printed for people works: every command in README.md and docs/, and every example that a help ends with."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand
from typer.main import get_command

import demo.cli
import infer.cli
import prep.cli
import train.cli
from common.command import run
from demo.road import RoadConfig
from prep.demo_songs import make_songs

ROOT = Path(__file__).resolve().parent.parent
APPS = {"prep": prep.cli.app, "train": train.cli.app, "infer": infer.cli.app, "backline-demo": demo.cli.app}
MODULES = {"prep": "prep.cli", "train": "train.cli", "infer": "infer.cli", "backline-demo": "demo.cli"}
LESS_WORK = {
    "prep build-shards": "--workers 1",
    "prep demo-songs": "--songs 3 --seconds 3",
    "train run": "--set max_steps=2",
    "infer generate": "--infer-steps 2",
    "infer compare": "--infer-steps 2",
}
"""Put behind a command, so that it ends in seconds; the last of two flags counts."""
HEAVY = ("torch", "numpy", "scipy", "soundfile", "lightning", "transformers", "diffusers", "peft", "optuna")


def commands_in(text: str) -> list[str]:
    """Lines "$ prep ..." and of the other programs, without the dollar."""
    return re.findall(rf"^\s*\$ ((?:{'|'.join(APPS)}) .*)$", text, flags=re.MULTILINE)


def documents() -> list[Path]:
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if commands_in(path.read_text())
    ]


def leaves() -> Iterator[tuple[str, TyperCommand]]:
    """Every command by what is typed to call it."""
    for program, app in APPS.items():
        command = get_command(app)
        for name, verb in getattr(command, "commands", {"": command}).items():
            yield f"{program} {name}".strip(), verb


def examples() -> list[str]:
    return [example for _, command in leaves() for example in commands_in(command.epilog or "")]


def work(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Do what `command` says, with less work, in the current folder; its exit code comes back."""
    program, *arguments = shlex.split(command)
    less = LESS_WORK.get(" ".join([program, *arguments[:1]]), "")
    monkeypatch.setattr("demo.road.RoadConfig", lambda: RoadConfig(songs=3, seconds=3, train_steps=1, infer_steps=1))
    arguments = [_found(argument) for argument in arguments] + shlex.split(less)
    with pytest.raises(SystemExit) as stopped:
        run(APPS[program], arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def _found(argument: str) -> str:
    """An adapter as documents name it for a shell, .../epoch=*-step=60_lora, after the steps that were taken here."""
    if "epoch=*" not in argument:
        return argument
    (found,) = Path().glob(re.sub(r"step=\d+_lora", "step=*_lora", argument))
    return str(found)


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_the_commands_of_a_document_run_one_after_the_other(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = commands_in(document.read_text())
    assert commands
    for command in commands:
        assert work(command, monkeypatch) == 0, command


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder where Backline was used: raw/ songs, shards/, adapter/, outputs/, vocals, a test set, ratings."""
    folder = tmp_path_factory.mktemp("project")
    make_songs(folder / "raw", songs=3, seconds=3, seed=1)
    for name in ("me.wav", "ballad_vocal.wav"):
        shutil.copy(folder / "raw" / "song-000001_vocal.flac", folder / name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        assert work("prep build-shards raw/ shards/", monkeypatch) == 0
        assert work("train run --config tiny_image2image --shards shards/", monkeypatch) == 0
        (adapter,) = folder.glob("exps/**/epoch=*_lora")
        shutil.copytree(adapter, folder / "adapter")
        assert work("infer generate --vocal raw/song-000001_vocal.flac --adapter adapter/", monkeypatch) == 0
    _compared(folder)
    return folder


def _compared(folder: Path) -> None:
    """What a comparison starts from and what its raters send back."""
    (folder / "half.json").write_text(json.dumps({"lora_path": "adapter", "lora_weight": 0.5, "ref_strength": 0.5}))
    (folder / "test_set.json").write_text(json.dumps([{"key": "me", "vocal_path": "me.wav", "prompt": "piano"}]))
    for rater, score in (("ann", 4), ("ben", 2)):
        sheet = {"sample_id": "me", "model": "adapter", "scores": {"musicality": score}}
        (folder / f"ratings_{rater}.json").write_text(json.dumps({"rater": rater, "ratings": [sheet]}))


@pytest.mark.parametrize("example", examples())
def test_the_example_of_a_help_runs(example, project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    assert work(example, monkeypatch) == 0


def test_every_help_ends_with_an_example():
    for typed, command in leaves():
        lines = (command.epilog or "").splitlines()
        assert lines, f"{typed} --help shows no example"
        assert lines[-1].startswith(f"  $ {typed}"), typed


@pytest.mark.parametrize("program", APPS)
def test_help_is_shown_without_a_heavy_import(program):
    typed = [command.split()[1:] for command, _ in leaves() if command.split()[0] == program]
    script = f"""
import json, sys
from common.command import run
from {MODULES[program]} import app
for arguments in {typed!r}:
    try:
        run(app, [*arguments, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout.splitlines()[-1]) == []

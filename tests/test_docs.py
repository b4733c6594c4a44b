"""What is printed for people works: every command of the documents, the files, flags and settings that they name, and
every example that a help ends with.

In a document, a block marked `sh` is run, with the tiny model and less work; one marked `text` is not.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperCommand
from typer.main import get_command

from backline.__main__ import APPS
from common.audio.wave import read_audio, write_audio
from common.command import dashed, run
from common.config import Config, load_config, parse_json
from common.errors import UserError
from infer.request.record import SettingsOverride
from prep.config import PrepConfig
from prep.made_up.folder import make_songs
from train.config import TrainingConfig
from train.search.config import OptunaConfig

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"prep": "prep.cli", "train": "train.cli", "infer": "infer.cli", "backline-demo": "demo.cli"}
RUN_HERE = ("prep", "train", "infer")
"""tests/demo/test_pipeline.py runs backline-demo as the README and its help show it."""
SETTINGS: Mapping[str, type[Config]] = {
    "prep": PrepConfig,
    "train": TrainingConfig,
    "train search": OptunaConfig,
    "infer": SettingsOverride,
}
"""What --config and --set of a program change, and --optuna-config of a verb."""
TOOLS = ("python3", "uv", "ruff", "ty", "pytest", "coverage", "ray", "tensorboard", "optuna-dashboard")
"""Programs of others that documents may call; what follows is looked at, not run."""
LANGUAGES = ("sh", "text", "json", "python", "bibtex")
ROOMS = ("common", "models", "prep", "train", "infer", "configs", "demo", "recipe", "benchmarks", "tests", "docs")
OUTSIDE = ("http://", "https://", "pipe:ssh", "postgresql://")
"""A command that reads from there is looked at, not run."""
TINY_WORDS = {
    "ACE-Step/ACE-Step-v1-3.5B": "tiny",
    "image2image_base": "tiny_image2image",
    "controlnet_base": "tiny_controlnet",
    "optuna_search": "tiny_search",
    "accompaniment_image2image": "tiny_image2image",
    "accompaniment_controlnet": "tiny_controlnet",
}
"""What stands for the published model, its configs and their experiments when a command is run."""
LESS_WORK = {
    "prep build-shards": "--workers 1 --device cpu --engine local",
    "prep plan": "--workers 1 --device cpu",
    "prep demo-songs": "--songs 3 --seconds 3",
    "train search": "--set n_trials=1 --set trial_steps=1 --set report_every_n_steps=1",
    "train run": "--devices 1 --nodes 1 --strategy auto --set max_steps=1",
    "infer generate": "--infer-steps 2 --device cpu",
    "infer compare": "--infer-steps 2 --device cpu",
    "infer benchmark": "--excerpt-seconds 2 --infer-steps 1 --device cpu",
    "infer tune": "--trials 1 --songs 1 --device cpu",
    "infer studio": "--open --port 0 --device cpu",
}
"""Put behind a command, so that it ends in seconds on one CPU; the last of two flags counts."""
BROUGHT = ("my-songs", "me.wav")
"""What a reader of the README brings; the other documents start where it ends."""
UNITS = {"秒": "s", "分": "minutes"}
"""What README.ja.md writes for units that README.md spells."""
HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "soundfile",
    "lightning",
    "transformers",
    "diffusers",
    "peft",
    "optuna",
    "fastapi",
    "uvicorn",
)


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_in(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def prose_in(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[list[str]]:
    """The words of every command in the blocks that are to be run, without `uv run` and variables before them."""
    bodies = (body.replace("\\\n", " ") for language, body in blocks_in(text) if language == "sh")
    commands = (command for body in bodies for line in body.splitlines() for command in line.split(" && "))
    return [_program(words) for command in commands if (words := shlex.split(command, comments=True))]


def _program(words: list[str]) -> list[str]:
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    for before in (["uv", "run"], ["python3", "-m", "uv", "run"]):
        if words[: len(before)] == before:
            return words[len(before) :]
    return words


def verb_of(words: list[str]) -> tuple[str, TyperCommand, list[str]]:
    """The verb that the words of a command call, how it is typed, and the words behind it."""
    program, *rest = words
    command = get_command(APPS[program])
    verbs = getattr(command, "commands", None)
    if verbs is None:
        assert isinstance(command, TyperCommand)
        return program, command, rest
    assert rest, program
    assert rest[0] in verbs, f"{program} has no {rest[0]}"
    return f"{program} {rest[0]}", verbs[rest[0]], rest[1:]


def check_command(words: list[str]) -> None:
    """Its program is known, its flags are, and the configuration that it names loads."""
    if words[0] not in APPS:
        return _check_tool(words)
    typed, command, rest = verb_of(words)
    given: dict[str, Any] = command.make_context(typed, [dashed(word) for word in rest]).params
    if "settings" in given:
        load_config(SETTINGS[words[0]], given.get("config"))
        load_config(OptunaConfig, given.get("optuna_config"))
        for setting in given["settings"] or []:
            check_setting(setting)
    return None


def _check_tool(words: list[str]) -> None:
    assert words[0] in TOOLS, words[0]
    for word in words:
        assert not re.match(rf"({'|'.join(ROOMS)})/", word) or (ROOT / word).exists(), word
    if words[1:2] == ["-m"] and words[2].startswith(ROOMS):
        module = ROOT / f"{words[2].replace('.', '/')}.py"
        assert module.is_file(), words[2]
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in module.read_text(encoding="utf-8"), f"{words[2]} has no {flag}"


def check_prose(text: str, folder: Path) -> None:
    """Links lead somewhere; files, flags and settings in code spans exist."""
    prose = prose_in(text)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        file, _, heading = link.partition("#")
        assert link.startswith("http") or (folder / file).exists(), link
        assert link.startswith("http") or not heading or heading in headings_of(folder / file), link
    for span in re.findall(r"`([^`\n]+)`", prose):
        if re.fullmatch(rf"({'|'.join(ROOMS)})/[\w./*-]*", span) or re.fullmatch(r"shards/\w+\.py", span):
            assert list(ROOT.glob(span.rstrip("/"))), span
        elif span.startswith("--set "):
            check_setting(span.removeprefix("--set "))
        elif span.split()[0] in APPS and " " in span:
            check_span(span.split())


def headings_of(document: Path) -> set[str]:
    """Names by which links reach them."""
    found = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def check_span(words: list[str]) -> None:
    """A command in prose, which may leave out what it needs."""
    typed, command, rest = verb_of(words)
    known = {flag for option in command.params for flag in option.opts}
    for word in rest:
        flag = dashed(word).partition("=")[0]
        assert not flag.startswith("--") or flag in known, f"{typed} has no {flag}"


def check_setting(setting: str) -> None:
    """Some configuration has it."""
    problems = [problem for kind in SETTINGS.values() if (problem := _problem(kind, setting))]
    assert len(problems) < len(SETTINGS), problems[0]


def _problem(kind: type[Config], setting: str) -> str:
    try:
        load_config(kind, None, [setting])
    except UserError as error:
        return str(error)
    return ""


def check_document(text: str, folder: Path) -> None:
    """What it names is there; `folder` is where it lies."""
    for language, body in blocks_in(text):
        assert language in LANGUAGES, body
        if language == "json":
            parse_json(body.encode(), "json")
    for words in commands_in(text):
        check_command(words)
    check_prose(text, folder)


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_a_document_names_only_what_is_there(document):
    check_document(document.read_text(encoding="utf-8"), document.parent)


@pytest.mark.parametrize(
    "wrong",
    [
        "```\nprep build-shards raw/ shards/\n```\n",
        "```json\n{fast}\n```\n",
        "```sh\nprep build-shards raw/ shards/ --fast\n```\n",
        "```sh\nprep build-shards raw/\n```\n",
        "```sh\nprep polish raw/\n```\n",
        "```sh\nA=b uv run train run --config image2image_best\n```\n",
        "```sh\ntrain run --config image2image_base \\\n  --set lora.rank=64\n```\n",
        "```sh\npython3 -m pip install uv && python3 -m benchmarks.fast\n```\n",
        "```sh\npython3 -m benchmarks.stream --fast\n```\n",
        "```sh\npytest tests/test_fast.py\n```\n",
        "```sh\nsudo rm -r exps/\n```\n",
        "See [there](there.md).",
        "See [there](README.md#there).",
        "It is in `train/fast.py`.",
        "It is in `shards/fast.py`.",
        "Say `infer generate --fast`.",
        "Say `--set lora.rank=64`.",
    ],
)
def test_what_is_not_there_is_found(wrong):
    with pytest.raises((AssertionError, UserError, typer.TyperException)):
        check_document(wrong, ROOT)


def sections_of(document: Path) -> list[str]:
    """Its parts, each from a heading to the next."""
    blocks_or_headings = r"^```.*?^```$|^#+ "
    text = document.read_text(encoding="utf-8")
    found = re.finditer(blocks_or_headings, text, flags=re.MULTILINE | re.DOTALL)
    starts = [match.start() for match in found if match[0].startswith("#")]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def facts_of(section: str) -> dict[str, Any]:
    """What a translation keeps: the heading's level, blocks, links, code spans (of a table, row by row), figures."""
    prose = prose_in(section)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    return {
        "level": len(section) - len(section.lstrip("#")),
        "blocks": [(language, _untranslated(language, body)) for language, body in blocks_in(section)],
        "links": sorted(link for link in links if not link.startswith("README")),
        "spans": sorted(_spans(prose)),
        "rows": [sorted(_spans(row)) for row in re.findall(r"^\|.*", prose, flags=re.MULTILINE)],
        "figures": sorted(figures_in(prose)),
    }


def _spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def _untranslated(language: str, body: str) -> Any:
    """A block without comments; of one that is for eyes only, the arrows, folders and files in it."""
    if language == "text":
        return sorted(re.findall(r"(?:\w+/)+|\w+\.\w+|--\w+-->", body, flags=re.ASCII))
    return re.sub(r"(?:^|(?<=\s))#.*", "", body, flags=re.MULTILINE) if language == "sh" else body


def figures_in(prose: str) -> list[str]:
    """Numbers outside code spans, with the unit if one follows."""
    plain = re.sub(r"`[^`\n]+`|\]\([^)\s]+\)", "", prose)
    number = r"(?<![A-Za-z\d_.-])(\d+(?:[.,]\d+)*)"
    unit = rf"(?:\s?((?:[KMGT]i?B|B|k?Hz|s|minutes)(?![A-Za-z])|%|{'|'.join(UNITS)}))?"
    return [f"{amount} {UNITS.get(unit, unit)}".strip() for amount, unit in re.findall(number + unit, plain)]


def test_the_readmes_say_the_same():
    english, japanese = (sections_of(ROOT / name) for name in ("README.md", "README.ja.md"))
    assert "](README.ja.md)" in english[0]
    assert "](README.md)" in japanese[0]
    for section, translated in zip(english, japanese, strict=True):
        assert facts_of(translated) == facts_of(section)


@pytest.mark.parametrize(
    ("section", "other"),
    [
        ("## Try", "### Try"),
        ("```sh\nprep verify shards/\n```\n", "```sh\nprep verify raw/\n```\n"),
        ("```sh\nprep verify shards/\n```\n", "```text\nprep verify shards/\n```\n"),
        ("```text\nprep/  songs  train/  shards\n```\n", "```text\nprep/  曲\n```\n"),
        ("See [there](docs/scaling.md).", "[そこ](docs/shards.md)を見る。"),
        ("Say `--set lora.r=64`.", "`--set lora.r=32` とする。"),
        ("| `prep plan` | |\n| `prep status` | |\n", "| `prep plan` `prep status` | |\n| | |\n"),
        ("30 MB of shards", "シャード 30 GB"),
        ("up to 240 s", "240 分まで"),
        ("Python 3.11 or 3.12", "Python 3.11"),
    ],
)
def test_what_a_translation_changed_is_found(section, other):
    assert facts_of(section) != facts_of(other)


@pytest.mark.parametrize(
    ("section", "other"),
    [
        ("```sh\nuv run pytest  # all of it\n```\n", "```sh\nuv run pytest  # すべて\n```\n"),
        ("```text\nprep/  songs -> shards\n```\n", "```text\nprep/  曲 -> シャード\n```\n"),
        ("up to 240 s, 4 minutes, at 48 kHz", "48 kHz で 240 秒（4 分）まで"),
    ],
)
def test_what_a_translation_may_change(section, other):
    assert facts_of(section) == facts_of(other)


def work(words: list[str]) -> int:
    """Do what a command says, with less work, in the current folder; its exit code comes back."""
    program, *arguments = words
    if "--print-config" not in words:  # which does no work
        arguments = [_found(_tiny(argument)) for argument in arguments]
        arguments += shlex.split(LESS_WORK.get(" ".join(words[:2]), ""))
    if words[:2] == ["infer", "studio"]:
        return served(arguments)
    with pytest.raises(SystemExit) as stopped:
        run(APPS[program], arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def served(arguments: list[str]) -> int:
    """`infer studio` in a process of its own, whose browser asks for the page and presses Ctrl-C; its exit code.

    The tests of pages leave an event loop running in theirs, and a server starts its own.
    """
    script = """
import signal, sys, webbrowser
from urllib.request import urlopen
from common.command import run
from infer.cli import app

def visit_and_interrupt(address):
    with urlopen(address) as page:
        assert b"Backline Studio" in page.read()
    print("visited")
    signal.raise_signal(signal.SIGINT)

webbrowser.open = visit_and_interrupt
run(app, sys.argv[1:])
"""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False
    )
    assert "visited" in done.stdout, done.stderr
    return done.returncode


def _tiny(argument: str) -> str:
    for published, tiny in TINY_WORDS.items():
        argument = argument.replace(published, tiny)
    return argument


def _found(argument: str) -> str:
    """An adapter as documents name it for a shell, .../epoch=*-step=60_lora, after the steps that were taken here."""
    if "epoch=*" not in argument:
        return argument
    (found,) = Path().glob(re.sub(r"step=\d+_lora", "step=*_lora", argument))
    return str(found)


@pytest.fixture(scope="module")
def project(tmp_path_factory, few_clips, few_rounds) -> Path:
    """A folder where Backline was used: raw/ songs, shards/, adapter/, outputs/, vocals, a test set, ratings."""
    folder = tmp_path_factory.mktemp("project")
    make_songs(folder / "raw", songs=3, seconds=3, seed=1, lead_sheets=True)
    shutil.copytree(folder / "raw", folder / "my-songs")
    for name in ("me.wav", "ballad_vocal.wav"):
        shutil.copy(folder / "raw" / "song-000001_vocal.flac", folder / name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        assert work(shlex.split("prep build-shards raw/ shards/ --checkpoint-dir tiny --set vocal_features=true")) == 0
        train = "train run --config tiny_image2image --shards shards/ --set accompaniment.lead_sheet=true"
        assert work(shlex.split(train)) == 0
        (adapter,) = folder.glob("exps/**/epoch=*_lora")
        shutil.copytree(adapter, folder / "adapter")
        made = "infer generate --vocal raw/song-000001_vocal.flac --adapter adapter/"
        assert work(shlex.split(made)) == 0
    _compared(folder)
    _as_musdb(folder)
    return folder


def _as_musdb(folder: Path) -> None:
    """Two of its songs in the layout of MUSDB18-HQ, the band in one stem of three."""
    for number in (1, 2):
        place = folder / "musdb18hq" / "test" / f"song {number}"
        for part, stem in (("vocal", "vocals"), ("inst", "other")):
            audio = read_audio(folder / "raw" / f"song-00000{number}_{part}.flac")
            write_audio(place / f"{stem}.wav", audio.samples, audio.rate_hz)
        for stem in ("drums", "bass"):
            write_audio(place / f"{stem}.wav", 0 * audio.samples, audio.rate_hz)


def _compared(folder: Path) -> None:
    """What a comparison starts from and what its raters send back."""
    (folder / "half.json").write_text(json.dumps({"lora_path": "adapter", "lora_weight": 0.5, "ref_strength": 0.5}))
    (folder / "test_set.json").write_text(json.dumps([{"key": "me", "vocal_path": "me.wav", "prompt": "piano"}]))
    for rater, score in (("ann", 4), ("ben", 2), ("eve", 3)):
        sheet = {"sample_id": "me", "model": "adapter", "scores": {"musicality": score}}
        (folder / f"ratings_{rater}.json").write_text(json.dumps({"rater": rater, "ratings": [sheet]}))


def ours(document: Path) -> list[list[str]]:
    """Commands of a document that are run here."""
    found = commands_in(document.read_text(encoding="utf-8"))
    return [words for words in found if words[0] in RUN_HERE and not any(word.startswith(OUTSIDE) for word in words)]


def walks() -> list[Any]:
    """Documents with commands to run; all but the README take longer than what they add over the examples is worth,
    and README.ja.md has the same commands as README.md.
    """
    found = [document for document in documents() if ours(document) and document.name != "README.ja.md"]
    marks = [() if document.stem.startswith("README") else pytest.mark.slow for document in found]
    return [pytest.param(path, marks=mark, id=path.name) for path, mark in zip(found, marks, strict=True)]


@pytest.mark.parametrize("document", walks())
@pytest.mark.usefixtures("few_clips")
def test_the_commands_of_a_document_run_one_after_the_other(document, project, tmp_path, monkeypatch):
    taken = [project / name for name in BROUGHT] if document.stem.startswith("README") else project.iterdir()
    for path in taken:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    for words in ours(document):
        assert work(words) == 0, words


def leaves() -> Iterator[tuple[str, TyperCommand]]:
    """Every command by what is typed to call it."""
    for program, app in APPS.items():
        command = get_command(app)
        for name, verb in getattr(command, "commands", {"": command}).items():
            yield f"{program} {name}".strip(), verb


def examples_of(command: TyperCommand) -> list[str]:
    return re.findall(r"^  \$ (.*)$", command.epilog or "", flags=re.MULTILINE)


def examples() -> list[str]:
    return [example for _, command in leaves() for example in examples_of(command)]


def examples_to_run() -> list[str]:
    """All but those that the README shows too, which run there."""
    shown = [" ".join(words) for words in ours(ROOT / "README.md")]
    return [example for example in examples() if example not in shown and example.split()[0] in RUN_HERE]


@pytest.mark.parametrize("example", examples_to_run())
def test_the_example_of_a_help_runs(example, project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr("train.harmony.songs.FEWEST_SONGS", 3)
    assert work(shlex.split(example)) == 0


def test_every_help_ends_with_an_example():
    for typed, command in leaves():
        assert examples_of(command), f"{typed} --help shows no example"
        assert (command.epilog or "").splitlines()[-1].startswith(f"  $ {typed}"), typed


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

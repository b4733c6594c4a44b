"""What runs on one system runs on the others: no module uses what Windows lacks, no text depends on the machine."""

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import common.audio.disk_wave
import prep.cli
from common.command import run

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("common", "models", "shards", "prep", "train", "infer", "demo", "recipe", "benchmarks")
SYSTEM = Path("common/system.py")
"""The one module that asks which system it runs on."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def missed_on_windows(*paths: str, root: Path = ROOT) -> list[str]:
    """What ty finds when all that Windows lacks of the standard library is away."""
    command = [sys.executable, "-m", "ty", "check", "--output-format", "concise", "--project", str(root)]
    command += ["--python-platform", "win32", "--python", sys.prefix, *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    return [line for line in done.stdout.decode("utf-8").splitlines() if " error[" in line]


def test_windows_lacks_nothing_that_any_module_uses():
    assert missed_on_windows(*ROOMS) == []


def test_what_windows_lacks_is_found(tmp_path):
    uses = (
        "os.pread(0, 1, 0)",
        "os.geteuid()",
        "os.fork()",
        "os.killpg(1, 2)",
        "signal.SIGKILL",
        "fcntl.flock(0, fcntl.LOCK_EX)",
        "resource.getrusage(0)",
        "socket.AF_UNIX",
    )
    lines = ["import fcntl, os, resource, signal, socket", *uses]
    (tmp_path / "module.py").write_text("\n".join(lines), encoding="utf-8")
    found = {line.split(":")[1] for line in missed_on_windows("module.py", root=tmp_path)}
    assert found == {str(number) for number in range(2, len(lines) + 1)}


def test_one_module_asks_which_system_it_runs_on():
    asked = {("sys", "platform"), ("os", "name"), ("platform", "system")}
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and path != SYSTEM:
                assert (node.value.id, node.attr) not in asked, f"{path}:{node.lineno}: ask {SYSTEM}"


# texts


def opening_mode(call: ast.Call, name: str) -> str | None:
    """The mode that a call opens a text file with; None for calls that open none."""
    is_method = isinstance(call.func, ast.Attribute)
    place = 0 if is_method or name in ("TemporaryFile", "NamedTemporaryFile") else 1
    given = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
    if not given:
        return "r" if name == "open" and (not is_method or not call.args) else None
    mode = given[0].value if isinstance(given[0], ast.Constant) else None
    return mode if isinstance(mode, str) and set(mode) <= set("rwxat+") else None


def missing_in(call: ast.Call) -> set[str]:
    """What a call that reads or writes text leaves to the machine."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    name = "" if ast.unparse(call.func) == "tarfile.open" else name
    words = {word.arg: word.value for word in call.keywords}
    if name == "read_text" and not call.args:
        return {"encoding"} - words.keys() if isinstance(call.func, ast.Attribute) else set()
    if name == "write_text":
        return {"encoding", "newline"} - words.keys()
    if name in ("run", "Popen", "check_output") and any(
        isinstance(words.get(word), ast.Constant) for word in ("text", "universal_newlines")
    ):
        return {"encoding"} - words.keys()
    if name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile") and (mode := opening_mode(call, name)):
        return ({"encoding"} if mode == "r" else {"encoding", "newline"}) - words.keys()
    return set()


def test_every_text_names_its_encoding_and_its_newlines():
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert not (missing := missing_in(node)), f"{path}:{node.lineno}: {' and '.join(sorted(missing))}?"


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("open(path)", {"encoding"}),
        ("path.open()", {"encoding"}),
        ("path.open('a', encoding='utf-8')", {"newline"}),
        ("open(path, mode='w')", {"encoding", "newline"}),
        ("path.write_text(words)", {"encoding", "newline"}),
        ("path.read_text()", {"encoding"}),
        ("subprocess.run(command, text=True)", {"encoding"}),
        ("TemporaryFile('w+')", {"encoding", "newline"}),
        ("path.open('rb')", set()),
        ("TemporaryFile()", set()),
        ("Decoder.open(place)", set()),
        ("tarfile.open(fileobj=file, mode='w')", set()),
        ("path.write_text(words, encoding='utf-8', newline='')", set()),
    ],
)
def test_what_a_text_leaves_to_the_machine_is_found(line, missing):
    (call,) = (node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call))
    assert missing_in(call) == missing


def test_results_are_printed_whatever_the_terminal_can_show(tmp_path):
    (tmp_path / "歌").mkdir()
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "prep", "verify", str(tmp_path / "歌")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\\u6b4c" in done.stderr
    script = (
        "import typer; from common.command import command_app, run; "
        "app = command_app(''); app.command()(lambda: typer.echo('歌')); run(app, [])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == b"\\u6b4c"


# files that are open


@pytest.fixture
def windows_files(monkeypatch):
    """As on Windows: what is open or mapped is neither removed nor renamed over, and temporary files have names."""
    if sys.platform != "linux":
        pytest.skip("open files are read from /proc")

    def in_use(path: str | os.PathLike[str]) -> bool:
        name = os.path.realpath(path)
        held = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        return name in held or any(line.endswith(name) for line in mapped)

    def guard(name: str) -> None:
        plain = getattr(os, name)

        def guarded(path, *others, **options):
            for each in (path, *others):
                if isinstance(each, str | os.PathLike) and Path(each).is_file() and in_use(each):
                    raise PermissionError(13, "The process cannot access the file: it is being used", str(each))
            return plain(path, *others, **options)

        monkeypatch.setattr(os, name, guarded)

    for name in ("unlink", "remove", "rename", "replace"):
        guard(name)
    monkeypatch.setattr(common.audio.disk_wave, "TemporaryFile", tempfile.NamedTemporaryFile)


def do(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(prep.cli.app, [str(argument) for argument in arguments])
    assert stopped.value.code == 0


def test_no_file_is_removed_or_replaced_while_it_is_open(tmp_path, windows_files):
    """The life of a folder of shards: built, added to, reworded, pruned, damaged, mended, built anew; and a vocal."""
    raw, shards = tmp_path / "raw", tmp_path / "shards"
    with (tmp_path / "open").open("wb"), pytest.raises(PermissionError):
        (tmp_path / "open").unlink()
    build = ("build-shards", raw, shards, "--checkpoint-dir", "tiny", "--workers", 1, "--set", "shard_samples=1")
    do("demo-songs", raw, "--songs", 2, "--seconds", 2, "--seed", 1)
    do(*build)
    do("demo-songs", raw, "--songs", 1, "--seconds", 2, "--seed", 3, "--form", "songs")
    for prompt in raw.glob("*1_prompt.txt"):
        prompt.write_text("other, tags", encoding="utf-8")
    do(*build)
    for path in raw.glob("song-000002*"):
        path.unlink()
    do(*build, "--prune")
    for shard in shards.glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:1000])
        break
    do("repair", shards, raw)
    do("verify", shards)
    do(*build, "--rebuild")
    do("encode", next(raw.glob("*_vocal*")), tmp_path / "vocal", "--vocal-lufs", -20, "--checkpoint-dir", "tiny")
    assert not [path for path in shards.rglob("*") if path.suffix == ".part"]

"""Backline under its own name: the version, the list of commands, and types for whoever imports a room."""

import subprocess
import sys
import tomllib
from pathlib import Path

import backline

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_the_projects():
    assert backline.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_module_lists_every_command_that_the_readme_lists():
    listed = subprocess.run(
        [sys.executable, "-m", "backline"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in readme.split("## All commands")[1].splitlines() if line.startswith("| `")]
    commands = [command for row in rows for command in row.split("`")[1::2]]
    assert len(commands) > 10
    for command in commands:
        assert f"\n{command} " in listed, command


def test_every_package_of_the_wheel_is_typed():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for package in set(build["targets"]["wheel"]["packages"]) - {"configs"}:  # which holds no code
        assert (ROOT / package / "py.typed").is_file(), package

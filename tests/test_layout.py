"""The import layers of the tree, and that the generic package names resolve to this checkout."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYER = {
    "common": 0,
    "models": 1,
    "shards": 1,
    "prep": 2,
    "train": 2,
    "infer": 2,
    "demo": 3,
    "recipe": 3,
    "benchmarks": 4,
    "tests": 5,
}


def imports() -> Iterator[tuple[Path, str]]:
    """Every (file, top-level package it imports) below the rooms of LAYER."""
    for room in LAYER:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((path.relative_to(ROOT), alias.name.split(".")[0]) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}: relative import"
                    yield path.relative_to(ROOT), str(node.module).split(".")[0]


def test_imports_point_down_and_never_sideways():
    found = list(imports())
    assert len(found) > 30
    for path, name in found:
        own = path.parts[0]
        assert name not in LAYER or name == own or LAYER[name] < LAYER[own], f"{path} imports {name}"


@pytest.mark.parametrize("room", [room for room in LAYER if room != "tests"])
def test_each_package_is_this_checkouts(room):
    spec = importlib.util.find_spec(room)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == ROOT / room


def test_tests_hold_no_packages_that_would_replace_the_real_ones():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_shards_holds_only_code_in_git():
    assert (ROOT / ".gitignore").read_text(encoding="utf-8").split("\n\n")[0].endswith("/shards/*\n!/shards/*.py")

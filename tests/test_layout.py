"""The import layers of the tree, and that the generic package names resolve to this checkout."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
    "backline": 4,
    "recipe": 3,
    "benchmarks": 4,
    "tests": 5,
}


WINGS = {
    "common": ("audio.formats", "audio", "music"),
    "models": (
        "acestep1.transformer",
        "acestep1.text",
        "acestep1.codec",
        "acestep1",
        "acestep15",
        "loading",
        "harmony",
        "flow",
        "adapters",
    ),
    "prep": ("sources", "captions", "encoding", "building", "made_up", "reports"),
    "train": ("data", "devices", "loop", "search", "harmony"),
    "infer": ("audio", "request", "band", "compare", "evaluate.measures", "evaluate", "benchmark", "tune", "studio"),
}
"""Of each room, from the bottom up: a wing imports those before it, and the modules that lie beside the wings."""
MOST_MODULES = 14


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for room in LAYER
        if room != "tests"
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the product that a file imports, wherever the import stands but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known.keys()


def wing_of(module: str) -> int:
    """The place of a module's wing in its room, or -1 beside the wings."""
    room, _, rest = module.partition(".")
    for place, wing in sorted(enumerate(WINGS.get(room, ())), key=lambda item: -len(item[1])):
        if rest.startswith(f"{wing}."):
            return place
    return -1


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
    assert (
        (ROOT / ".gitignore")
        .read_text(encoding="utf-8")
        .split("\n\n")[0]
        .endswith("/shards/*\n!/shards/*.py\n!/shards/py.typed")
    )


def test_wings_import_only_those_before_them():
    known = modules()
    for module, path in known.items():
        for name in imported_modules(path, known):
            if name.split(".")[0] == module.split(".")[0] and wing_of(module) >= 0:
                assert wing_of(name) <= wing_of(module), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    after = {module: imported_modules(path, known) for module, path in known.items()}
    assert list(TopologicalSorter(after).static_order())  # raises CycleError, which names the circle


def test_every_wing_says_what_it_is_and_folders_stay_small():
    for room in LAYER.keys() - {"tests"}:
        for folder in {path.parent for path in (ROOT / room).rglob("*.py")}:
            own = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
            assert len(own) <= MOST_MODULES, f"{folder}: {len(own)} modules"
            assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_no_class_name_means_two_things():
    seen: dict[str, Path] = {}
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert node.name not in seen, f"class {node.name}: {seen[node.name]} and {path}"
                seen[node.name] = path


def raises_user_error(function: ast.FunctionDef) -> bool:
    """Whether `raise UserError(...)` stands in the function itself."""
    raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise)]
    names = [exc.func if isinstance(exc, ast.Call) else exc for exc in raised]
    return any(isinstance(name, ast.Name) and name.id == "UserError" for name in names)


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Functions and methods without an underscore, and what makes an object, each with what its docstring says."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if not isinstance(method, ast.FunctionDef):
                    continue
                if method.name in ("__init__", "__post_init__"):
                    yield method, f"{ast.get_docstring(node)} {ast.get_docstring(method)}"
                elif not method.name.startswith("_"):
                    yield method, ast.get_docstring(method) or ""


def test_who_raises_a_user_error_says_so():
    found = 0
    for module, path in modules().items():
        if path.name in ("cli.py", "__main__.py"):  # their docstring is the help, and a UserError ends them in one line
            continue
        for function, said in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            if raises_user_error(function):
                found += 1
                assert re.search(r"Raises (\w+ or )?UserError", said), f"{module}.{function.name} does not say so"
    assert found > 50

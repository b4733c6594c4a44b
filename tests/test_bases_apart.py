"""What a base model has of its own is a value of its spec, or stands in its package: nothing else asks which it is."""

import ast
from pathlib import Path

from common.bases import BASES

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("common", "shards", "prep", "models", "train", "infer", "demo", "recipe", "benchmarks")
OWN = ("common/bases.py", "models/acestep1/", "models/acestep15/", "models/loading/acestep1")
"""Where a base model may be told from another: the registry, each base model's package and what opens it."""
CONSTANTS = {"ACE_STEP_1", "ACE_STEP_15"}
NAMES = {name for spec in BASES.values() for name in (spec.name, spec.published_id, *spec.variant_ids)} | {
    variant for spec in BASES.values() for variant in spec.samplings if variant != "base"
}


def told_apart(tree: ast.AST) -> list[int]:
    """Lines that compare something with a base model, or with the name of one or of a variant."""
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.MatchValue)]
    found = [(node, inner) for node in compared for inner in ast.walk(node)]
    return [
        node.lineno
        for node, inner in found
        if (isinstance(inner, ast.Name) and inner.id in CONSTANTS)
        or (isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value in NAMES)
    ]


def test_it_is_found_in_any_form():
    forms = (
        "x = spec is ACE_STEP_1",
        "if base == 'ace-step-1.5': pass",
        "y = 1 if kind in ('turbo', 'sft') else 2",
        "match spec.name:\n case 'ace-step-1': pass",
        "z = spec.name != ACE_STEP_15.name",
    )
    assert all(told_apart(ast.parse(form)) for form in forms)
    assert not told_apart(ast.parse("x = ACE_STEP_1.name\ny = spec.rows == 1\nz = {ACE_STEP_1.name: 2}[spec.name]"))


def test_only_a_base_model_itself_knows_which_it_is():
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(OWN):
                found += [f"{name}:{line}" for line in told_apart(ast.parse(path.read_text(encoding="utf-8")))]
    assert not found

"""Accompaniments for held-out vocals, compared on a page to listen to and measured in a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import whole_file
from common.table import in_columns
from infer.band.session import Session
from infer.compare.compare import Comparison, compare
from infer.compare.ratings import Interval
from infer.evaluate.evaluate import Evaluation, EvaluationRequest
from infer.evaluate.report import evaluate_into, shown_interval
from models.adapters.adapter import read_card
from prep.made_up.truth import untold

TEXT2MUSIC = "text2music"
GAINS = {
    "val/gain_over_muted": "validation: loss below that without the vocal",
    "val/gain_over_shifted": "validation: loss below that with the vocal shifted in time",
    "val/conditioning_gain": "validation: loss below that with another song's vocal",
    "val/x0_gain": "validation: loss below the base's without a vocal",
}
MEASURES = {
    "harmony.z": "harmony: z of the right transposition (chance 0)",
    "harmony.key_score": "harmony: key against the vocal's",
    "rhythm.tempo_acc2": "rhythm: tempo right, or an octave off",
    "rhythm.beat_f": "rhythm: beat F",
    "leakage.fine": "leakage: fine structure (clean below 0.05)",
}
ANCHORS = ("true", TEXT2MUSIC, "shuffled")


@dataclass(frozen=True)
class DemoResults:
    """The comparison of the adapters and its measures."""

    page: Path
    """Where to listen."""
    reports: Mapping[str, Path]
    """The evaluation's page of each mode."""
    table: str
    """For a terminal."""


def compare_and_evaluate(
    out: Path, mixes: Sequence[Path], adapters: Mapping[str, Path], *, infer_steps: int
) -> DemoResults:
    """Generate with every adapter, and the base from the prompt alone, for every vocal of `mixes`; then evaluate.

    Raises UserError where a stage cannot go on.
    """
    comparison = Comparison(
        test_set=_write(out / "test_set.json", [_item(mix, out) for mix in mixes]),
        adapters=tuple(_models(out, adapters)),
        output_dir=out / "comparison",
        infer_steps=infer_steps,
        device="cpu",
    )
    session = Session()
    page = compare(comparison, session)
    bands = comparison.output_dir / "models"
    found: dict[str, Evaluation] = {}
    reports: dict[str, Path] = {}
    for mode in adapters:
        request = EvaluationRequest(
            items=bands / mode, truth=mixes[0].parent, text2music=bands / TEXT2MUSIC, checkpoint_dir="tiny"
        )
        found[mode], reports[mode] = evaluate_into(out / "evaluation" / mode, request, session)
    validations = {mode: read_card(adapter).validation for mode, adapter in adapters.items()}
    return DemoResults(page, reports, table(validations, found))


def table(validations: Mapping[str, Mapping[str, float]], found: Mapping[str, Evaluation]) -> str:
    """Each mode beside the anchors, with 95 % intervals: figures of the training first, then measures of the bands."""
    first = next(iter(found.values()))
    means = {(mode, mean.measure): mean.mean for mode in found for mean in found[mode].means if mean.system == "result"}
    means |= {(mean.system, mean.measure): mean.mean for mean in first.means if mean.system in ANCHORS}
    means |= {
        (mode, gain): Interval(figures[gain], figures[f"{gain}_low"], figures[f"{gain}_high"])
        for mode, figures in validations.items()
        for gain in GAINS
    }
    systems = (*found, *ANCHORS)

    def cell(system: str, name: str) -> str:
        shown = means.get((system, name))
        return shown_interval(shown, 3 if name in GAINS else 2) if shown else "-"

    rows = [(title, *(cell(system, name) for system in systems)) for name, title in (GAINS | MEASURES).items()]
    return in_columns([("", *systems), *rows])


def _item(mix: Path, out: Path) -> dict[str, str]:
    key = mix.stem.removesuffix("_mix")
    tags = mix.with_name(f"{key}_prompt.txt").read_text(encoding="utf-8").strip().split(", ")
    vocal = mix.with_name(f"{key}_vocal{mix.suffix}").relative_to(out)
    return {"key": key, "vocal_path": vocal.as_posix(), "prompt": untold(tags)}


def _models(out: Path, adapters: Mapping[str, Path]) -> list[Path]:
    """One file for each adapter, and one that uses nothing of the first."""
    paths = {mode: {"lora_path": adapter.relative_to(out).as_posix()} for mode, adapter in adapters.items()}
    bare = next(iter(paths.values())) | {"lora_weight": 0.0, "ref_strength": 0.0}
    return [_write(out / f"{name}.json", model) for name, model in (paths | {TEXT2MUSIC: bare}).items()]


def _write(path: Path, content: object) -> Path:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path

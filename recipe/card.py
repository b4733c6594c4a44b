"""CARD.md: what the bundle is, how it was made and what was measured."""

import json
from collections.abc import Mapping
from pathlib import Path

from common.config import Config
from train.fitting import Trained

CARD_FILE = "CARD.md"

HEADER = """# The tiny bundle

A small ACE-Step v1 in the published layout, trained by `python -m recipe` on made-up songs (`prep demo-songs`).
It is for trying and testing, not for music. Every number below was measured on songs that nothing was trained on.

Backline alone opens all of it: upstream's loader and ComfyUI refuse its transformer (the size of their lyric encoder is
fixed) and know nothing of its vocoder's head (Griffin-Lim). Upstream's codec opens; docs/interop.md says more.

harmoniser/, which infers lead sheets, is trained by `python -m recipe.harmoniser`; docs/formulation.md, section 8, has
its figures. adapters/, which infer uses where none is named, are trained by `python -m recipe.objectives.shipped`;
docs/objectives.md says what their bands do.
"""


def write_card(
    bundle: Path,
    header: str,
    settings: Config,
    trained: Mapping[str, Trained],
    measured: Mapping[str, Mapping[str, float]],
    *,
    device: str,
) -> None:
    sections = [
        header,
        "## Parts\n\n" + _table(("part", "bytes"), _sizes(bundle)),
        f"## Training\n\nDevice: {device}. Losses are means over the last steps.\n\n"
        + _table(("network", "steps", "hours", "losses"), [_training(name, run) for name, run in trained.items()]),
        "## Quality\n\n" + "\n".join(_quality(name, numbers) for name, numbers in measured.items()),
        f"## Settings\n\n```json\n{settings.model_dump_json(indent=1)}\n```\n",
    ]
    (bundle / CARD_FILE).write_text("\n".join(sections), encoding="utf-8", newline="\n")


def _sizes(bundle: Path) -> list[tuple[str, ...]]:
    parts = sorted(path for path in bundle.iterdir() if path.is_dir())
    return [(part.name, str(sum(file.stat().st_size for file in part.iterdir()))) for part in parts]


def _training(name: str, run: Trained) -> tuple[str, ...]:
    return name, str(run.steps), f"{run.seconds / 3600:.2f}", json.dumps(run.losses).strip("{}").replace('"', "")


def _quality(name: str, numbers: Mapping[str, float]) -> str:
    return f"### {name}\n\n" + _table(("measure", "value"), [(key, f"{value:.3f}") for key, value in numbers.items()])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

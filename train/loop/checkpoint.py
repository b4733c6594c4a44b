"""What lies beside the adapters of a run: last.ckpt, to go on from, and best.json, which names the best of them.

last.ckpt holds what is trained, optimiser, schedule, random state and place in the data; nothing of the frozen base.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch import Trainer
from pydantic import Field

from common.config import Config, leaves
from common.errors import UserError
from common.files import whole_file
from train.config import TrainingConfig

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.json"
MAY_CHANGE = frozenset(
    {
        "max_steps",
        "checkpoint_every_n_steps",
        "val_every_n_steps",
        "early_stop_patience",
        "render_every_n_steps",
        "gradient_checkpointing",
        "num_workers",
        "compile",
        "exp_name",
        "logger_dir",
        "dataset_path",
    }
)
"""Settings that a resumed run may have otherwise: they do not touch what has been learned so far."""
ONCE: Mapping[str, Any] = {
    "high_noise_share": 0.0,
    "joint_dropout": 0.0,
    "ema_warmup": False,
    "accompaniment.lyrics_content": "words",
}
"""What a checkpoint was trained with that is older than the setting."""


class Best(Config):
    """best.json: the adapter with the highest gain over the base of those that listen to the vocal beyond doubt."""

    adapter: str
    """Name of its folder, beside this file."""
    step: int
    """Optimiser steps behind it."""
    figures: dict[str, float]
    """Its validation."""
    decided_by: str = Field(default="val/x0_gain", exclude_if=lambda name: name == "val/x0_gain")
    """The figure that is the highest; best.json leaves it out where it is of all vocals."""

    @property
    def gain(self) -> float:
        return self.figures[self.decided_by]


def save_best(folder: Path, best: Best) -> None:
    """Replace folder/best.json, once the adapter that it names is whole. Raises UserError where the disk refuses."""
    with whole_file(folder / BEST) as partial:
        partial.write_text(best.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")


def save_last(trainer: Trainer, folder: Path) -> None:
    """Replace folder/last.ckpt by the state of the run, on all ranks. Raises UserError where the disk refuses."""
    if trainer.is_global_zero:
        with whole_file(folder / LAST) as partial:
            trainer.save_checkpoint(partial, weights_only=False)
    else:  # takes part in the gathering; only rank 0 writes
        trainer.save_checkpoint(folder / LAST, weights_only=False)


def find_last(config: TrainingConfig) -> Path:
    """The last.ckpt of the newest version of an experiment that has one. Raises UserError where none has."""
    experiment = Path(config.logger_dir) / config.exp_name
    found = [path for path in experiment.glob(f"version_*/{CHECKPOINTS}/{LAST}") if _version(path) is not None]
    if not found:
        raise UserError(f"{experiment}: no {LAST} in any version of this experiment. Start it without --resume.")
    return max(found, key=lambda path: _version(path) or 0)


def locate(path: Path) -> Path:
    """The last.ckpt meant by a file, a version folder or its checkpoints folder. Raises UserError if it has none."""
    for candidate in (path, path / LAST, path / CHECKPOINTS / LAST):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no {LAST} there. Give one, or the version folder that holds {CHECKPOINTS}/{LAST}.")


def check_resumable(path: Path, config: TrainingConfig, base_fingerprint: str) -> None:
    """Raises UserError if a checkpoint is damaged, finished, or of another run than this one would be."""
    try:
        checkpoint = _read(path)
        step, was, base = checkpoint["global_step"], checkpoint["config"], checkpoint["base"]
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, BadZipFile, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read ({reason}). Resume from another, or start anew.") from None
    if base != base_fingerprint:
        raise UserError(
            f"{path}: trained on the base {base[:8]}, this one is {base_fingerprint[:8]}. "
            "Give the --checkpoint-dir of the first run."
        )
    nulls = config.meant_by_null
    first, now = (
        {name: nulls.get(name) if value is None else value for name, value in leaves(settings).items()}
        for settings in (was, config.model_dump(mode="json"))
    )
    for name, value in now.items():
        before = first.get(name, ONCE.get(name))
        if name.partition(".")[0] not in MAY_CHANGE and before != value:
            raise UserError(
                f"{path}: trained with {name} {before}, now it is {value}. Resume with the first, or start anew."
            )
    if step >= config.max_steps:
        raise UserError(f"{path}: stands at step {step} of max_steps {config.max_steps}. Raise max_steps to go on.")


def _read(path: Path) -> dict[str, Any]:
    with ZipFile(path) as file:  # torch writes checksums, but looks at none
        if spoiled := file.testzip():
            raise BadZipFile(f"{spoiled} is not as it was written")
    return torch.load(path, map_location="cpu", weights_only=True)


def _version(path: Path) -> int | None:
    """Number of the version folder that a last.ckpt lies in."""
    matched = re.fullmatch(r"version_(\d+)", path.parents[1].name)
    return int(matched[1]) if matched else None

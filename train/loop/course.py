"""What a run will cost, said before it is spent: epochs at its start, hours after its first steps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from common.config import load_config
from common.latents import LatentLayout
from common.presets import described_preset, preset_on
from shards.manifest import Manifest
from train.config import TrainingConfig
from train.data.plan import Segment, batches_per_epoch
from train.loop.callbacks import StepCallback, announce
from train.loop.module import AccompanimentModule
from train.loop.preparation import base_of_shards

MANY_EPOCHS = 1000
"""Beyond it a run should know that it learns its songs by heart."""
SETTLED_AT_STEP, TIMED_STEPS = 3, 10
"""The first steps take longer than those that are timed."""


@dataclass(frozen=True)
class Course:
    """A run over so many songs."""

    steps: int
    clips: int  # that make a step, on all devices
    steps_in_epoch: float

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_in_epoch


def plan_course(config: TrainingConfig, training: Sequence[Segment], latents: LatentLayout, *, devices: int) -> Course:
    """What a run on all of `training` amounts to."""
    batches = config.accumulate_grad_batches * devices
    in_epoch = batches_per_epoch(training, batch_size=config.batch_size, crop_frames=config.crop_frames(latents))
    return Course(config.max_steps, batches * config.batch_size, in_epoch / batches)


def describe_course(config: TrainingConfig, manifest: Manifest, training: Sequence[Segment], *, devices: int) -> str:
    """One line: songs, epochs, and the preset for so many songs; another one where they will be known by heart."""
    latents, family = manifest.spec.latents, base_of_shards(manifest).family
    songs = manifest.families()
    preset = preset_on(songs, family)
    course, usual = (
        plan_course(one, training, latents, devices=devices) for one in (config, load_config(TrainingConfig, preset))
    )
    hours = sum(segment.frames for segment in training) / latents.frames_per_second / 3600
    line = (
        f"{course.steps} steps of {course.clips} clips: {_number(course.epochs)} epochs of {_number(hours)} hours of "
        "music; "
        f"{described_preset(songs, family)} (--config {preset}: {usual.steps} steps, {_number(usual.epochs)} epochs)"
    )
    if course.epochs <= MANY_EPOCHS:
        return line
    ways = [f"lower max_steps ({MANY_EPOCHS} epochs are {MANY_EPOCHS * course.steps_in_epoch:.0f})"]
    ways += [] if config.early_stop_patience else ["set early_stop_patience"]
    ways += ["take the preset"] if usual.epochs < course.epochs else []
    return f"{line}\nmore than {MANY_EPOCHS} epochs: songs will be learnt by heart. Way out: {', or '.join(ways)}."


def describe_adapters(module: AccompanimentModule) -> str:
    """One line: what the adapters that a run keeps will take on the disk."""
    config = module.config
    each = 4 * sum(parameter.numel() for parameter in module.trained.values())
    count = ceil(config.max_steps / config.checkpoint_every_n_steps)
    return (
        f"an adapter each {config.checkpoint_every_n_steps} steps (checkpoint_every_n_steps): {count} of "
        f"{each / 1e6:.3g} MB, {count * each / 1e9:.2g} GB in all"
    )


def _number(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


class PaceNotice(StepCallback):
    """Says once how long a step takes, and so the whole run."""

    def __init__(self) -> None:
        self._first, self._since = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first = self._step

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        if self._step == self._first + SETTLED_AT_STEP:
            self._since = time.monotonic()
        if self._step == self._first + SETTLED_AT_STEP + TIMED_STEPS:
            seconds = (time.monotonic() - self._since) / TIMED_STEPS
            left = trainer.max_steps - self._step
            announce(f"{seconds:.2f} s a step: {_number(seconds * left / 3600)} hours for the {left} steps left")

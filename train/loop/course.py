"""What a run will cost, said before it is spent: epochs at its start, hours after its first steps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from common.latents import LatentLayout
from common.presets import preset_for
from train.config import TrainingConfig
from train.data.plan import Segment, batches_per_epoch
from train.loop.callbacks import StepCallback, announce
from train.loop.module import AccompanimentModule

MANY_EPOCHS = 1000
"""Beyond it a run should know that it learns its songs by heart."""
SETTLED_AT_STEP, TIMED_STEPS = 3, 10
"""The first steps take longer than those that are timed."""


@dataclass(frozen=True)
class Course:
    """A run over so many songs."""

    songs: int  # those kept for validation, too
    hours: float  # of music that is trained on
    steps: int
    clips: int  # that make a step, on all devices
    epochs: float

    def described(self) -> str:
        """One line; another one where the songs will be known by heart."""
        preset = preset_for(self.songs)
        line = (
            f"{self.steps} steps of {self.clips} clips: {self.epochs:.4g} epochs of {self.hours:.3g} hours of music; "
            f"the preset for {self.songs} songs is {preset} (--config {preset})"
        )
        if self.epochs <= MANY_EPOCHS:
            return line
        return (
            f"{line}\nmore than {MANY_EPOCHS} epochs: songs will be learnt by heart. Lower max_steps, set "
            "early_stop_patience, or take the preset."
        )


def plan_course(
    config: TrainingConfig, training: Sequence[Segment], latents: LatentLayout, *, songs: int, devices: int
) -> Course:
    """What a run on all of `training` amounts to; `songs` counts those for validation, too."""
    batches = config.accumulate_grad_batches * devices
    in_epoch = batches_per_epoch(training, batch_size=config.batch_size, crop_frames=config.crop_frames(latents))
    return Course(
        songs=songs,
        hours=sum(segment.frames for segment in training) / latents.frames_per_second / 3600,
        steps=config.max_steps,
        clips=batches * config.batch_size,
        epochs=config.max_steps * batches / in_epoch,
    )


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
            announce(f"{seconds:.2f} s a step: {seconds * left / 3600:.2g} hours for the {left} steps left")

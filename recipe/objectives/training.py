"""Adapters by `train run`'s own entry point: how long a step takes, and a training that goes on where it was."""

import statistics
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from common.canonical import sha256_of
from common.config import Config, check_config, load_config, read_json
from common.files import whole_file
from models.loading.checkpoint import spec_of
from recipe.objectives.settings import ARMS, Arm, ObjectivesSettings
from train.config import TrainingConfig
from train.fitting import claim
from train.loop.checkpoint import CHECKPOINTS, LAST, find_last
from train.loop.fit import fit

PACE_FILE = "pace.json"
TIMED = ("bridge_vp", "controlnet")
"""Arms that are timed, one of each mode, beside that of a slot for a source."""
ROUNDS = 2


class StepTimer(Callback):
    """Notes the processor time at the end of every step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.at.append(time.process_time())

    @property
    def step_seconds(self) -> float:
        return statistics.median(after - before for before, after in zip(self.at, self.at[1:], strict=False))


class Timed(Config):
    """All that the pace depends on."""

    base: str
    """Hash of the transformer."""
    trainings: dict[str, TrainingConfig]


class Pace(Config):
    """What a step costs."""

    step_seconds: dict[str, float]
    """Processor seconds, by shipped config."""

    def steps(self, arm: Arm, seconds: float) -> int:
        """How many an arm gets for its time."""
        return max(1, round(seconds / self.step_seconds[arm.config]))


def training_config(arm: Arm, settings: ObjectivesSettings, *, steps: int, seed: int) -> TrainingConfig:
    """The config of an arm's training; it validates on nothing, since other songs judge."""
    own = [f"max_duration={settings.songs.seconds}", "val_fraction=0", f"max_steps={steps}", f"seed={seed}"]
    return load_config(TrainingConfig, arm.config, [*settings.training, *arm.settings, *own])


def placed(config: TrainingConfig, *, shards: Path, logs: Path) -> TrainingConfig:
    """A config that reads `shards` and writes into `logs`."""
    return config.model_copy(update={"dataset_path": str(shards), "logger_dir": str(logs), "exp_name": "training"})


def measure_pace(folder: Path, bundle: Path, settings: ObjectivesSettings, *, shards: Path, base: str) -> Pace:
    """What a step costs in either mode; measured once for all that has the same settings.

    The arms of a mode do the same work but for one matrix product in a step. Modes are timed in turn, and each by its
    fastest round, so that what else the machine does weighs on none of them alone.
    """
    arms = [ARMS[name] for name in (*TIMED, *(("context",) if spec_of(bundle).has_source_slot else ()))]
    trainings = {arm.config: training_config(arm, settings, steps=settings.timed_steps, seed=0) for arm in arms}
    timed = Timed(base=base, trainings=trainings)
    room = folder / f"pace-{sha256_of(timed.model_dump(mode='json'))[:8]}"
    claim(room, timed)
    path = room / PACE_FILE
    if not path.is_file():
        placed_here = {name: placed(config, shards=shards, logs=room) for name, config in trainings.items()}
        rounds = [{name: _time(config, bundle) for name, config in placed_here.items()} for _ in range(ROUNDS)]
        pace = Pace(step_seconds={name: min(timed[name] for timed in rounds) for name in trainings})
        with whole_file(path) as partial:
            partial.write_text(pace.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    return check_config(Pace, read_json(path), str(path))


def _time(config: TrainingConfig, bundle: Path) -> float:
    watch = StepTimer()
    if fit(config, checkpoint_dir=str(bundle), callbacks=[watch]).interrupted_by:
        raise KeyboardInterrupt
    return watch.step_seconds


def train(config: TrainingConfig, bundle: Path) -> Path:
    """The adapter at the last step: the one that is there, or what is left of its training is done."""
    experiment = Path(config.logger_dir) / config.exp_name
    done = [*experiment.glob(f"version_*/{CHECKPOINTS}/epoch=*-step={config.max_steps}_lora")]
    if done:
        return done[0]
    begun = any(experiment.glob(f"version_*/{CHECKPOINTS}/{LAST}"))
    outcome = fit(config, checkpoint_dir=str(bundle), resume_from=find_last(config) if begun else None)
    if outcome.interrupted_by:
        raise KeyboardInterrupt
    return outcome.adapter

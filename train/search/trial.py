"""One trial: a short run on a base and on samples that all trials of a process share, judged as it goes."""

import gc
import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from optuna import Trial, TrialPruned
from optuna.trial import FrozenTrial

from common.errors import UserError
from common.memory import ran_out, said_of
from models.loading.checkpoint import variant_of
from models.protocols import FlowNetwork
from train.config import TrainingConfig
from train.data.loader import room_in_memory
from train.data.plan import seed_of
from train.devices.strategy import Hardware
from train.loop.callbacks import HEADLINES, ProgressDisplay, SignalStop, StepCallback, announce
from train.loop.fit import take_steps, write_config
from train.loop.module import AccompanimentModule
from train.loop.observe import TrainingCurves
from train.loop.preparation import Data, Shards, adapters_on, check_features, describe_split, make_data, open_base
from train.loop.validation import LISTENING, Validation, listens
from train.search.config import OptunaConfig
from train.search.queue import FAILURE, TrialError, slot_of
from train.search.space import SearchSpace, config_with, shortened

CONFIG, SEEDS, FIGURES, SECONDS = "config", "seeds", "figures", "seconds"
"""Attributes of a trial."""


class InterruptedTrialError(Exception):
    """A signal came amid a trial."""


@dataclass
class TrialResources:
    """What all trials of a process share."""

    shards: Shards
    transformer: FlowNetwork
    fingerprint: str  # of the base
    where: Hardware
    variant: str = "base"  # of the base
    previous_validation: Validation | None = None  # of the trial before


def open_resources(
    config: TrainingConfig, shards: Shards, base: Path, fingerprint: str, *, features: bool, where: Hardware
) -> TrialResources:
    """Open the base, then read all samples, once. `features`: whether trials may have SSL losses.

    Raises UserError where shards and base do not go together.
    """
    transformer = open_base(config, base)
    segments = (*shards.split.training, *shards.split.validation)
    in_memory = shards.samples.remember({segment.key for segment in segments}, room=room_in_memory())
    announce(describe_split(shards.split, in_memory=in_memory))
    if features:
        first = segments[0]
        check_features(config, shards.samples.load([first.shard], {first.key})[first.key])
    return TrialResources(shards, transformer, fingerprint, where, variant_of(base))


class PruningCallback(StepCallback):
    """Validates, tells Optuna, and ends a trial that it gives up or that a signal interrupts."""

    def __init__(self, trial: Trial, validation: Validation, metric: str, interruption: SignalStop) -> None:
        self.figures: dict[str, float] = {}
        self.pruned = self.finished = False
        self.training_seconds = self.validation_seconds = 0.0
        self._trial, self._validation, self._metric = trial, validation, metric
        self._interruption = interruption

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._interruption.take_over()  # Lightning has just installed handlers of its own
        self._started = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training_seconds = time.monotonic() - self._started - self.validation_seconds

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        """Raises UserError where a figure of the validation is not finite."""
        self.finished = self._step == module.config.max_steps
        if self.finished or self._step % module.config.val_every_n_steps == 0:
            self._validate(trainer, module)
            self.pruned = not self.finished and self._trial.should_prune()
        trainer.should_stop = self._interruption.agreed_to_stop(trainer, self.pruned)

    def _validate(self, trainer: Trainer, module: AccompanimentModule) -> None:
        started = time.monotonic()
        with module.inference_state():
            self.figures = self._validation(module).named()
        self.validation_seconds += time.monotonic() - started
        broken = [name for name, figure in self.figures.items() if not math.isfinite(figure)]
        if broken:
            raise UserError(f"step {self._step}: {broken[0]} is not finite ({self.figures[broken[0]]:g}).")
        for logger in trainer.loggers:
            logger.log_metrics(self.figures, step=self._step)
        announce(f"step {self._step}: " + ", ".join(f"{name} {self.figures[name]:.4f}" for name in HEADLINES))
        self._trial.report(self.figures[self._metric], self._step)


@dataclass(frozen=True)
class TrialObjective:
    """What Optuna optimises: called with a trial, it trains with what all trials of the process share."""

    resources: TrialResources
    config: TrainingConfig
    wanted: OptunaConfig
    space: SearchSpace
    interruption: SignalStop

    def __call__(self, trial: Trial) -> float:
        """The metric of a trial after its last step.

        Raises TrialPruned; TrialError where the values do not go together, memory does not suffice or numbers break,
        which is recorded; AbandonedError after a signal; UserError where no trial could be taken here.
        """
        with _recorded(trial):
            drawn = {parameter.name: parameter.draw(trial) for parameter in self.space.parameters}
            announce(f"trial {trial.number}: " + ", ".join(f"{name} {shown(value)}" for name, value in drawn.items()))
            config = config_with(self.config, self.space, drawn)
        trial.set_user_attr(CONFIG, config.model_dump(mode="json"))
        trial.set_user_attr(SEEDS, {"training": config.seed, "sampler": sampler_seed(config.seed, slot_of(trial))})
        short = shortened(config, self.wanted)
        shards, before = self.resources.shards, self.resources.previous_validation
        data = make_data(short, shards, variant=self.resources.variant, reuse_base_of=before)
        self.resources.previous_validation = data.validation
        version = f"trial_{trial.number:04d}"
        logger = TensorBoardLogger(config.logger_dir, name=trial.study.study_name, version=version)
        write_config(short, Path(logger.log_dir))
        with _recorded(trial):
            callback = self._train(trial, short, data, logger)
        return self._record(trial, callback, logger)

    def _train(self, trial: Trial, config: TrainingConfig, data: Data, logger: TensorBoardLogger) -> PruningCallback:
        assert data.validation is not None
        _free()
        callback = PruningCallback(trial, data.validation, self.wanted.metric, self.interruption)
        with adapters_on(self.resources.transformer, config, self.resources.fingerprint, data) as module:
            taking_part = [callback, TrainingCurves(), ProgressDisplay()]
            take_steps(module, data, logger=logger, callbacks=taking_part, where=self.resources.where)
        return callback

    def _record(self, trial: Trial, callback: PruningCallback, logger: TensorBoardLogger) -> float:
        """Note what came of a trial."""
        if not (callback.finished or callback.pruned):
            raise InterruptedTrialError
        figures = callback.figures
        trial.set_user_attr(FIGURES, figures)
        seconds = {"training": callback.training_seconds, "validation": callback.validation_seconds}
        trial.set_user_attr(SECONDS, seconds)
        for name in (f"{gain}_low" for gain in LISTENING):
            trial.set_constraint(name, math.ulp(0.0) - figures[name])  # at most 0 if and only if the figure is above
        logger.log_hyperparams(trial.params, {name.replace("val/", "trial/"): figures[name] for name in HEADLINES})
        logger.finalize("success")
        if callback.pruned:
            announce(f"trial {trial.number} was pruned")
            raise TrialPruned
        announce(f"trial {trial.number}: {self.wanted.metric} {figures[self.wanted.metric]:.4f}")
        return figures[self.wanted.metric]


def sampler_seed(seed: int, slot: int) -> int:
    """Seed of the sampler that draws the values of a slot: the same however often a study was stopped before."""
    return seed_of(seed, "sampler", slot) % 2**32


def value_of(trial: FrozenTrial) -> float:
    """The metric of a trial that came to one."""
    assert trial.values is not None
    return trial.values[0]


def uses_vocal(trial: FrozenTrial) -> bool:
    """Whether a trial's model listens to the vocal with 95 % confidence."""
    return listens(trial.user_attrs.get(FIGURES, {}))


def failure(error: Exception) -> str | None:
    """What was wrong with what a trial tried, in one line; None if the error is no fault of the trial."""
    if isinstance(error, UserError):
        return str(error)
    return f"out of memory ({said_of(error)})" if ran_out(error) else None


def shown(value: Any) -> str:
    """A drawn value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _recorded(trial: Trial) -> Generator[None]:
    """Turn what is a trial's own fault into a TrialError whose reason the study keeps."""
    try:
        yield
    except (UserError, MemoryError, RuntimeError, OSError) as error:
        reason = failure(error)
        if reason is None:
            raise
        announce(f"trial {trial.number} failed: {reason}")
        trial.set_user_attr(FAILURE, reason)
        raise TrialError(reason) from None


def _free() -> None:
    """Free what trials before left behind (Lightning's trainer and module hold each other), and forget their peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

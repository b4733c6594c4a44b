"""What happens beside the steps of a run: validation, checkpoints, a clean stop on a signal, progress."""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer

from common.progress import Progress, progress, say
from train.devices.ranks import RankLauncher
from train.loop.checkpoint import Best, save_best, save_last
from train.loop.module import AccompanimentModule
from train.loop.validation import Validation, listens, of_kind

Save = Callable[[AccompanimentModule, Path, Mapping[str, float]], None]
"""Writes an adapter folder: module, folder, latest validation figures."""
HEADLINES = ("val/loss", "val/x0_gain", "val/gain_over_muted", "val/conditioning_gain")
announce = rank_zero_only(say)


class SignalStop(Callback):
    """The first SIGINT or SIGTERM lets the run finish its step and keep `promise`; a second one ends it at once.

    It may reach any rank: all learn of it at the next `agreed_to_stop`.
    """

    def __init__(self, promise: str = "saving after this step") -> None:
        self.received: signal.Signals | None = None
        self._promise = promise
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over after Lightning has installed its own handlers, which would stop amid an accumulation."""
        self.take_over()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.give_back()
        self.agreed_to_stop(trainer, False)  # a signal since the last step; and nobody leaves before all is saved
        if isinstance(trainer.strategy.launcher, RankLauncher):
            trainer.strategy.launcher.end_watch()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.give_back()

    def agreed_to_stop(self, trainer: Trainer, wanted: bool) -> bool:
        """Whether any rank wants to stop or was sent a signal, which then counts as received by all.

        Every rank must ask after the same step: they wait for each other here.
        """
        number = self.received or 0
        if trainer.world_size > 1:
            states = torch.tensor([number, wanted], device=trainer.strategy.root_device)
            number, wanted = trainer.strategy.reduce(states, reduce_op="max").tolist()
        if number:
            self.received = signal.Signals(number)
        return bool(wanted or number)

    def take_over(self) -> None:
        """From now on signals are noted here; to be called again where others have installed their handlers since."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before.setdefault(number, signal.signal(number, self._note))

    def give_back(self) -> None:
        """Let who handled them first handle them again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say(f"{self.received.name}: {self._promise} (again: stop at once)")


class StepCallback(Callback, ABC):
    """A callback on optimiser steps, not on the batches whose gradients one accumulates."""

    _step = 0
    """Optimiser steps so far."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AccompanimentModule)
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self.after_step(trainer, pl_module, outputs)

    @abstractmethod
    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        """`outputs` are those of the step's last batch."""


class Milestones(StepCallback):
    """After the optimiser steps where they are due: validation, then adapter folder, best.json and last.ckpt."""

    def __init__(self, folder: Path, save: Save, validation: Validation | None, interruption: SignalStop) -> None:
        self.folder, self.adapter = folder, folder
        self.figures: dict[str, float] = {}
        self.best: Best | None = None
        self._save, self._validation, self._interruption = save, validation, interruption
        self._highest, self._without_gain = float("-inf"), 0
        self._deciding = validation.deciding if validation else None
        self._gain = of_kind("val/x0_gain", self._deciding)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validation and (line := self._validation.described_choice()):
            announce(line)

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        config = module.config
        finished = self._step == config.max_steps
        is_best = False
        if self._validation and (finished or self._step % config.val_every_n_steps == 0):
            is_best = self._validate(trainer, module, self._validation)
        stop = self._interruption.agreed_to_stop(trainer, trainer.should_stop)
        due = finished or stop or self._step % config.checkpoint_every_n_steps == 0
        if due or is_best:
            self._write_adapter(trainer, module)
        if is_best:
            self._record_best(trainer)
        if due:
            save_last(trainer, self.folder)
        trainer.should_stop = stop

    def _validate(self, trainer: Trainer, module: AccompanimentModule, validation: Validation) -> bool:
        """Validate; whether this is the best gain so far among those that listen to the vocal at 95 %."""
        with module.inference_state():
            own = validation(module).named()
        self.figures = trainer.strategy.broadcast(own)  # GPUs may round differently, and all must decide alike
        for logger in trainer.loggers:
            logger.log_metrics(self.figures, step=self._step)
        announce(f"step {self._step}: " + ", ".join(f"{name} {self.figures[name]:.4f}" for name in HEADLINES))
        gain = self.figures[self._gain]
        self._without_gain = 0 if gain > self._highest else self._without_gain + 1
        self._highest = max(self._highest, gain)
        patience = module.config.early_stop_patience
        if patience and self._without_gain >= patience:
            announce(f"step {self._step}: {patience} validations without a better {self._gain}; stopping early")
            trainer.should_stop = True
        return listens(self.figures, self._deciding) and (self.best is None or gain > self.best.gain)

    def _write_adapter(self, trainer: Trainer, module: AccompanimentModule) -> None:
        self.adapter = self.folder / f"epoch={module.data_epoch}-step={self._step}_lora"
        if trainer.is_global_zero:
            with module.inference_state():
                self._save(module, self.adapter, self.figures)

    def _record_best(self, trainer: Trainer) -> None:
        self.best = Best(adapter=self.adapter.name, step=self._step, figures=self.figures, decided_by=self._gain)
        if trainer.is_global_zero:
            save_best(self.folder, self.best)

    def state_dict(self) -> dict[str, Any]:
        best = self.best.model_dump() if self.best else None
        return {
            "figures": self.figures,
            "best": best,
            "highest": self._highest,
            "without_gain": self._without_gain,
            "decided_by": self._gain,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.figures = state_dict["figures"]
        if state_dict.get("decided_by", "val/x0_gain") != self._gain:
            announce(f"{self._gain} decides now: the best adapter is chosen anew from here on")
            return
        self.best = Best(**state_dict["best"]) if state_dict["best"] else None
        self._highest, self._without_gain = state_dict["highest"], state_dict["without_gain"]


class ProgressDisplay(StepCallback):
    """Steps done, with the loss beside them."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shown: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._shown = self._stack.enter_context(progress(trainer.max_steps - self._step, "train", "steps"))

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        if self._shown:
            self._shown.update(note=f"loss {outputs['shown']['loss'].item():.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stack.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stack.close()

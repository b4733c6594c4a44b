"""What TensorBoard shows of the steps themselves: losses, by noise level too, speed, gradients, the vocal's own path.

B clips of a batch. Values are means over the steps since the last point, of rank 0 where there are several.
"""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from models.flow.conditioning import Conditioner, SourceProjection
from models.flow.control import ControlEncoder
from models.flow.lead_sheet import vocal_part
from models.flow.schedule import TIMESTEPS
from train.data.clips import Batch
from train.loop.callbacks import StepCallback, announce
from train.loop.memory import in_gib, measured_bytes
from train.loop.module import AccompanimentModule

EVERY_N_STEPS = 10
"""Optimiser steps between two points of a curve."""
LEVELS = 5
"""Ranges of sigma, of equal width, whose losses are shown apart."""
MEASURED_AT_STEP = 3
"""Memory is measured after as many steps: optimiser state exists by then."""


class TrainingCurves(StepCallback):
    """Writes the curves, and says once how much memory the run takes."""

    def __init__(self) -> None:
        self._first = 0
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._first = self._step
        self._forget()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._take(outputs, batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def after_step(self, trainer: Trainer, module: AccompanimentModule, outputs: Mapping[str, Any]) -> None:
        if self._step == min(self._first + MEASURED_AT_STEP, trainer.max_steps):
            where = "on the GPU" if torch.cuda.is_available() else "of this process"
            announce(f"memory after {self._step - self._first} steps, {where}: {in_gib(measured_bytes())}")
        if self._step % EVERY_N_STEPS == 0:
            curves = {f"train/{name}": value for name, value in self._means(trainer).items()}
            curves |= {
                f"vocal_path/{name}": value for name, value in vocal_path_norms(vocal_part(module.conditioner)).items()
            }
            if module.grad_norm is not None:
                curves["train/grad_norm"] = module.grad_norm.item()
            for logger in trainer.loggers:
                logger.log_metrics(curves, step=self._step)
            self._forget()

    def _forget(self) -> None:
        self._since = time.monotonic()
        self._batches, self._sums = 0, dict[str, Tensor]()
        self._level_sums: Tensor | None = None  # [2, LEVELS]: losses, clips

    def _take(self, outputs: Mapping[str, Any], batch: Batch) -> None:
        """Add up a batch where it lies: nothing waits for the GPU."""
        self._batches += 1
        for name, value in outputs["shown"].items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        if self._level_sums is None:
            self._level_sums = batch.timestep.new_zeros(2, LEVELS)
        level = (batch.timestep / TIMESTEPS * LEVELS).long().clamp(max=LEVELS - 1)
        counted = torch.stack((outputs["of_clips"] * batch.weight, batch.weight))
        self._level_sums.index_add_(1, level, counted)

    def _means(self, trainer: Trainer) -> dict[str, float]:
        assert self._level_sums is not None
        means = {name: value.item() / self._batches for name, value in self._sums.items()}
        losses, clips = self._level_sums.tolist()
        for level, (loss, count) in enumerate(zip(losses, clips, strict=True)):
            if count:
                means[f"denoising_loss_sigma_{level / LEVELS:g}_to_{(level + 1) / LEVELS:g}"] = loss / count
        seconds = time.monotonic() - self._since
        means["samples_per_second"] = sum(clips) * trainer.world_size / seconds
        means["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        return means


def vocal_path_norms(conditioner: Conditioner | None) -> dict[str, float]:
    """How far the vocal's own path has come from its start at zero: norms of its last layers, and gates."""
    if isinstance(conditioner, SourceProjection):
        return {"projection_norm": conditioner.projection.weight.norm().item()}
    if isinstance(conditioner, ControlEncoder):
        layers = conditioner.injection_layers
        named = zip(layers, conditioner.out, strict=True)
        norms = {f"norm_at_block_{layer}": out.get_parameter("weight").norm().item() for layer, out in named}
        if conditioner.gates is None:
            return norms
        gates = zip(layers, conditioner.gates.tolist(), strict=True)
        return norms | {f"gate_at_block_{layer}": gate for layer, gate in gates}
    return {}

"""What the trainer adds to a step: `train run` against a bare forward, backward and optimiser step on the same batch.

    uv run python -m benchmarks.train_step [--steps 40] [--batch-size 8] [--seconds 12] [--mode image2image]

Both take turns in one run; the figure is the ratio of the medians of their CPU time.
"""

import argparse
import copy
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.made_shards import make_shards
from train.config import AccompanimentConfig, TrainingConfig
from train.data.clips import Batch
from train.loop.fit import fit
from train.loop.module import AccompanimentModule
from train.loop.optim import make_optimizer

MOST = 1.05
"""Target: the trainer's step in bare steps."""
WARM_UP = 5
"""Steps that do not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each clip")
    parser.add_argument("--mode", choices=["image2image", "controlnet"], default="image2image")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    turns = Turns()
    with TemporaryDirectory() as folder:
        config = TrainingConfig(
            accompaniment=AccompanimentConfig(mode=arguments.mode, injection_layers=(0, 3), control_encoder_dim=256),
            dataset_path=str(make_shards(Path(folder), songs=16, seconds=arguments.seconds)),
            batch_size=arguments.batch_size,
            max_steps=arguments.steps,
            gradient_checkpointing=False,
            val_fraction=0.0,
            logger_dir=folder,
        )
        fit(config, callbacks=[turns])
    trainer, bare = median(turns.trainer_seconds[WARM_UP:]), median(turns.bare_seconds[WARM_UP:])
    print(f"trainer {1000 * trainer:8.1f} ms of CPU time a step")
    print(f"bare    {1000 * bare:8.1f} ms")
    print(f"trainer / bare {trainer / bare:.3f}   (target at most {MOST:g})")


class Turns(Callback):
    """After each step of the trainer, the same step by hand on a twin of its module."""

    def __init__(self) -> None:
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AccompanimentModule)
        self._transformer, self._conditioner = copy.deepcopy((pl_module.transformer, pl_module.conditioner))
        self._twin = AccompanimentModule(
            pl_module.config, self._transformer, self._conditioner, base_fingerprint=pl_module.base_fingerprint
        )
        self._optimizer = make_optimizer(list(self._twin.trained.values()), pl_module.config)
        self._since = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        ended = time.process_time()
        self._twin.losses(batch).total.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.trainer_seconds.append(ended - self._since)
        self._since = time.process_time()
        self.bare_seconds.append(self._since - ended)


if __name__ == "__main__":
    main()

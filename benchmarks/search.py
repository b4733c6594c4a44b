"""What a trial costs beside its training and validation steps, once base and cache are open.

    uv run python -m benchmarks.search [--steps 200] [--trials 3] [--mode image2image]

The time from the end of one trial to the end of the next, less what the latter's steps and validations took: queue and
storage, adapters on and off the base, Lightning's trainer, curves, the config. The first trial, which finds everything
cold, does not count.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from optuna.trial import FrozenTrial

from benchmarks.made_shards import make_shards
from common.config import load_config
from train.config import TrainingConfig
from train.search.config import FloatRange, OptunaConfig
from train.search.process import search
from train.search.trial import SECONDS

MOST = 0.05
"""Target: overhead as a share of all that a trial takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--trials", type=int, default=3, help="after the first")
    parser.add_argument("--mode", choices=["image2image", "controlnet"], default="image2image")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), songs=12, seconds=12.0)
        settings = [f'dataset_path="{shards}"', f'logger_dir="{folder}"', f"max_steps={arguments.steps}"]
        outcome = search(
            load_config(TrainingConfig, f"tiny_{arguments.mode}", settings),
            OptunaConfig(
                n_trials=arguments.trials + 1,
                trial_steps=arguments.steps,
                pruner_n_startup_trials=arguments.trials + 1,
                search_space={"learning_rate": FloatRange(type="loguniform", low=1e-4, high=1e-3)},
            ),
            storage=f"sqlite:///{folder}/optuna.db",
            study_name="benchmark",
            out=Path(folder),
        )
    whole, beside = measured(outcome.trials)
    validations = len(outcome.trials[0].intermediate_values)
    print(f"trial    {whole:7.2f} s, {arguments.steps} steps and {validations} validations")
    print(f"overhead {beside:7.2f} s")
    print(f"overhead / trial {beside / whole:.3f}   (target at most {MOST:g})")


def measured(trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """Medians over all trials but the first: seconds of a trial, and of those what was neither steps nor validation."""
    ends = [trial.datetime_complete.timestamp() for trial in trials if trial.datetime_complete]
    wholes = [after - before for before, after in pairwise(ends)]
    known = [sum(trial.user_attrs[SECONDS].values()) for trial in trials[1:]]
    return median(wholes), median(whole - part for whole, part in zip(wholes, known, strict=True))


if __name__ == "__main__":
    main()

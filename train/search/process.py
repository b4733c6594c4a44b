"""One process of `train search`: takes queued trials until the study is done, then says which was best."""

import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from common.canonical import sha256_of
from common.config import check_config, leaves
from common.errors import UserError
from common.files import check_writable, whole_file
from common.progress import say
from shards.held_out import FEWEST_VALIDATION_SONGS
from shards.location import location_of
from shards.reader import read_manifest
from train.config import TrainingConfig
from train.devices.strategy import hardware
from train.loop.callbacks import SignalStop
from train.loop.checkpoint import MAY_CHANGE
from train.loop.preparation import Shards, find_base, open_shards
from train.search.config import OptunaConfig
from train.search.queue import TrialQueue, open_queue
from train.search.report import write_report
from train.search.space import SearchSpace, check_length, space_of
from train.search.trial import (
    CONFIG,
    InterruptedTrialError,
    TrialObjective,
    open_resources,
    sampler_seed,
    uses_vocal,
    value_of,
)

POLL_SECONDS = 1.0
"""How often to look whether the trials of other processes are done."""


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended, in this process."""

    trials: tuple[FrozenTrial, ...]  # of the whole study
    left: int  # trials still to run
    best: FrozenTrial | None
    best_config: Path | None
    report: Path
    interrupted_by: signal.Signals | None


def search(
    config: TrainingConfig,
    wanted: OptunaConfig,
    *,
    checkpoint_dir: str | None = None,
    device: str = "auto",
    storage: str,
    study_name: str,
    out: Path,
) -> SearchOutcome:
    """Run trials of a study until it is done, its time is up or a signal comes; then write what is known to `out`.

    Raises UserError for everything a user can mend, before anything large is opened where that can be known.
    """
    where = hardware(device, devices=1, config=config)
    check_writable(out)
    check_length(config, wanted)
    space_of(config, wanted)  # what is wrong with it is told before shards are looked for
    config = config.on(read_manifest(location_of(config.dataset_path)).spec)
    space = space_of(config, wanted)
    if space.left_out:
        mode = config.accompaniment.mode
        say(f"left out of the search, as they mean nothing in mode {mode}: {', '.join(space.left_out)}")
    features = config.ssl_coeff > 0 or any(parameter.path == "ssl_coeff" for parameter in space.parameters)
    shards = open_shards(config, features=features)
    if len(shards.split.validation) < FEWEST_VALIDATION_SONGS:
        raise UserError(
            f"{config.dataset_path}: {len(shards.split.validation)} songs to validate on, and trials are compared by "
            f"validation. Raise val_fraction, or build more songs (at least {FEWEST_VALIDATION_SONGS + 1})."
        )
    base = find_base(config, shards.manifest, checkpoint_dir)
    with _quiet_optuna():
        queue = open_queue(
            storage,
            study_name,
            setup=_setup(config, wanted, space, base.fingerprint, shards),
            n_trials=wanted.n_trials,
            maximise=wanted.metric == "val/x0_gain",
            pruner=make_pruner(wanted),
            heartbeat_seconds=wanted.heartbeat_seconds,
        )
        interruption = SignalStop("stopping after this step; the trial goes back into the queue")

        def open_objective() -> TrialObjective:
            resources = open_resources(config, shards, base.folder, base.fingerprint, features=features, where=where)
            return TrialObjective(resources, config, wanted, space, interruption)

        interruption.take_over()
        try:
            _run_trials(queue, open_objective, config.seed, wanted.timeout, interruption)
        finally:
            interruption.give_back()
        return _conclude(queue, wanted, out, interruption)


def best_of(trials: Sequence[FrozenTrial], metric: str) -> FrozenTrial | None:
    """The complete trial with the best metric of those that listen to the vocal with 95 % confidence."""
    sign = 1 if metric == "val/x0_gain" else -1
    eligible = [trial for trial in trials if trial.state == TrialState.COMPLETE and uses_vocal(trial)]
    return max(eligible, key=lambda trial: (sign * value_of(trial), -trial.number), default=None)


def make_pruner(wanted: OptunaConfig) -> BasePruner:
    """What ends trials early, as `wanted` says."""
    match wanted.pruner_type:
        case "median":
            return MedianPruner(
                n_startup_trials=wanted.pruner_n_startup_trials, n_warmup_steps=wanted.pruner_n_warmup_steps
            )
        case "successive_halving":
            return SuccessiveHalvingPruner(
                min_resource=wanted.min_resource, reduction_factor=wanted.pruner_reduction_factor
            )
        case "hyperband":
            return HyperbandPruner(
                min_resource=wanted.min_resource,
                max_resource=wanted.max_resource,
                reduction_factor=wanted.pruner_reduction_factor,
            )


def _setup(
    config: TrainingConfig, wanted: OptunaConfig, space: SearchSpace, fingerprint: str, shards: Shards
) -> dict[str, Any]:
    """All that makes the trials of a study comparable; what they vary stands in the space alone."""
    varied = {parameter.path for parameter in space.parameters}
    settings = leaves(config.model_dump(mode="json"))
    return {
        **{name: value for name, value in settings.items() if name not in MAY_CHANGE | varied},
        **wanted.model_dump(mode="json", include={"search_space", "metric", "trial_steps"}),
        "report_every_n_steps": wanted.report_steps,
        "base": fingerprint,
        "shards": sha256_of([entry.sha256 for entry in shards.manifest.shards]),
    }


def _run_trials(
    queue: TrialQueue,
    open_objective: Callable[[], TrialObjective],
    seed: int,
    timeout: float | None,
    interruption: SignalStop,
) -> None:
    """Run queued trials until every slot is done, waiting for those that other processes run."""
    started = time.monotonic()
    objective, waiting = None, False
    while queue.left() and interruption.received is None:
        if timeout is not None and time.monotonic() - started >= timeout:
            say(f"timeout: no further trial after {timeout:g} s")
            return
        objective = objective or open_objective()
        try:
            if queue.run_next(objective, lambda slot: TPESampler(seed=sampler_seed(seed, slot))):
                waiting = False
                continue
        except InterruptedTrialError:
            queue.refill()
            return
        if not waiting:
            say(f"nothing is queued; waiting for {queue.left()} trials of other processes")
            waiting = True
        time.sleep(POLL_SECONDS)


def _conclude(queue: TrialQueue, wanted: OptunaConfig, out: Path, interruption: SignalStop) -> SearchOutcome:
    """Write the best config, if there is one, and the report."""
    study = queue.study
    trials, left = tuple(study.get_trials()), queue.left()
    best = best_of(trials, wanted.metric)
    best_config = None
    if best is not None:
        best_config = out / f"{study.study_name}_best.json"
        config = check_config(TrainingConfig, best.user_attrs[CONFIG], f"trial {best.number}")
        with whole_file(best_config) as partial:
            partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")
    report = out / f"{study.study_name}_report.html"
    write_report(report, study, best, left=left, metric=wanted.metric)
    return SearchOutcome(trials, left, best, best_config, report, interruption.received)


@contextmanager
def _quiet_optuna() -> Generator[None]:
    """Keep Optuna's own words about each trial off stderr: we say them."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

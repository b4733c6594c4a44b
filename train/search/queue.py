"""The queue of a study: exactly as many trials as were asked for, whoever runs them and whoever is killed.

Every trial has a slot, 0 to n_trials - 1. A slot is done when a trial in it is complete, was pruned, or failed by what
it tried; a trial whose process died or was stopped leaves its slot open, and the same values are queued there again.
"""

import os
import socket
import sqlite3
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Self

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from common.config import leaves
from common.errors import UserError
from common.progress import say
from train.config import TrainingConfig

SLOT, PROCESS, FAILURE = "slot", "process", "failure"
"""Attributes of a trial."""
SETUP, N_TRIALS = "setup", "n_trials"
"""Attributes of a study."""
MISSED_BEATS = 4
"""Heartbeats that a process may miss before it is taken for dead."""
BUSY_TIMEOUT_SECONDS = 60
"""How long to wait for another process to be done with the database."""
OPEN_ATTEMPTS = 5
"""How often to try again what another process is just doing."""
PROGRESS_ATTRIBUTES = ("completed_rung_", "constraints")
"""How notes begin that a trial leaves on its way: the cuts it has passed, and what it is held to."""


class TrialError(Exception):
    """What a trial tried does not work: recorded, and the search goes on."""


class StudyLock:
    """One process at the queue at a time; the system lets go when the process that holds it ends, however it ends.

    SQLite locks no rows, and of two processes that take one trial both would be told that it is theirs: there a file
    beside the database is locked. Servers lock a row that Optuna only reads.
    """

    def __init__(self, url: URL) -> None:
        self.file = f"{url.database}.lock" if url.get_backend_name() == "sqlite" else None
        self._engine = None if self.file else create_engine(url)
        self._held: sqlite3.Connection | Connection | None = None

    def __enter__(self) -> Self:
        if self._engine is None:
            assert self.file is not None
            self._held = sqlite3.connect(self.file, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
            self._held.execute("BEGIN EXCLUSIVE")
        else:
            self._held = self._engine.connect()
            self._held.execute(text("SELECT version_info_id FROM version_info FOR UPDATE"))
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the next process in, before the block ends."""
        if self._held is not None:
            self._held.close()
            self._held = None


class TrialQueue:
    """The trials of a study."""

    def __init__(self, study: Study, storage: RDBStorage, lock: StudyLock) -> None:
        self.study = study
        self._storage, self._lock = storage, lock
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._lost = False  # whether the trial at hand was taken from us

    @property
    def n_trials(self) -> int:
        """Trials of the whole study."""
        return self.study.user_attrs[N_TRIALS]

    def left(self) -> int:
        """Slots that are not done."""
        done = sum(is_done(trial) for trial in in_slots(self.study.get_trials(deepcopy=False)).values())
        return self.n_trials - done

    def refill(self) -> None:
        """Queue what is missing, for whoever comes next."""
        with self._lock:
            self._fill()

    def run_next(self, objective: Callable[[Trial], float], sampler_of: Callable[[int], BaseSampler]) -> bool:
        """Run the next queued trial, its values drawn by the sampler of its slot; False where none is queued.

        TrialError is recorded; whatever else `objective` raises comes back, and leaves the slot open.
        """
        with self._lock:
            self._fill()
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting:
                return False
            self.study.sampler = sampler_of(slot_of(waiting[0]))
            self._run_first(objective)
        return True

    def _run_first(self, objective: Callable[[Trial], float]) -> None:
        """Run the trial that waits first. It is ours once `objective` is called: then others may take the next."""

        def begun(trial: Trial) -> float:
            self._claim(trial)
            self._lock.release()
            try:
                return objective(trial)
            except UpdateFinishedTrialError:
                self._lost = True
                raise

        self._lost = False
        try:
            self.study.optimize(begun, n_trials=1, catch=(TrialError,))
        except ValueError:  # of Optuna, which was told how a trial ended that had been closed before
            if not self._lost:
                raise
            say("this process was taken for dead, and its trial was queued again; going on with the next")

    def _claim(self, trial: Trial) -> None:
        """Give a trial its first heartbeat, then our name. Only with the lock."""
        self._storage.record_heartbeat(
            self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
        )
        trial.set_user_attr(PROCESS, f"{socket.gethostname()}:{os.getpid()}")

    def _fill(self) -> None:
        """Put into the queue whatever open slots lack. Only with the lock."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(self.study)
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if PROCESS not in trial.user_attrs:  # who took it died before signing, or it would hold the lock
                self.study.tell(trial.number, state=TrialState.FAIL)
        found = in_slots(self.study.get_trials())
        for slot in range(self.n_trials):
            if slot not in found:
                self.study.enqueue_trial({}, user_attrs={SLOT: slot})
            elif found[slot].state == TrialState.FAIL and not is_done(found[slot]):
                requeue(self.study, found[slot])


def open_queue(
    url: str,
    study_name: str,
    *,
    setup: Mapping[str, Any],
    n_trials: int,
    maximise: bool,
    pruner: BasePruner,
    heartbeat_seconds: int,
) -> TrialQueue:
    """The queue of a study, new or begun before. `setup` is all that makes its trials comparable.

    Raises UserError where the storage cannot be opened, or holds a study of this name that is another one.
    """
    parsed, shown = _parsed(url)
    try:
        lock = StudyLock(parsed)
        with lock if lock.file else nullcontext():
            storage = _made_storage(parsed, heartbeat_seconds)
        with lock:
            study = optuna.create_study(
                storage=storage,
                study_name=study_name,
                load_if_exists=True,
                direction="maximize" if maximise else "minimize",
                pruner=pruner,
            )
            _check_setup(study, setup, n_trials)
    except (sqlite3.Error, SQLAlchemyError, OptunaError, ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--storage {shown}: cannot be opened ({reason}). Give an Optuna storage, such as sqlite:///optuna.db."
        ) from error
    return TrialQueue(study, storage, lock)


def in_slots(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Slot -> the last trial in it."""
    return {trial.user_attrs[SLOT]: trial for trial in trials if SLOT in trial.user_attrs}


def slot_of(trial: Trial | FrozenTrial) -> int:
    """Slot of a trial; one that was queued by hand, from outside, has none and goes by its number."""
    return trial.user_attrs.get(SLOT, trial.number)


def is_done(trial: FrozenTrial) -> bool:
    """Whether nothing is left to do in this trial's slot."""
    if trial.state == TrialState.FAIL:
        return FAILURE in trial.user_attrs
    return trial.state.is_finished()


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial's values again, without what it left behind on the way."""
    kept = {name: value for name, value in trial.system_attrs.items() if not name.startswith(PROGRESS_ATTRIBUTES)}
    trial.system_attrs = kept
    trial.user_attrs = {SLOT: trial.user_attrs[SLOT]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback()(study, trial)


def _parsed(url: str) -> tuple[URL, str]:
    """A storage URL, and how it may be shown."""
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise UserError(f"--storage {url}: no storage URL. Write it as sqlite:///optuna.db.") from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise UserError(f"--storage {url}: such a study ends with this process. Name a file: sqlite:///optuna.db.")
    return parsed, parsed.render_as_string(hide_password=True)


def _made_storage(url: URL, heartbeat_seconds: int) -> RDBStorage:
    """A storage with its tables. Of processes that meet at an empty server all make them, and all but one fail once."""
    for _ in range(OPEN_ATTEMPTS):
        try:
            return _storage(url, heartbeat_seconds)
        except (IntegrityError, ProgrammingError, OptunaError):
            time.sleep(1)
    return _storage(url, heartbeat_seconds)


def _storage(url: URL, heartbeat_seconds: int) -> RDBStorage:
    patient = {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}} if url.get_backend_name() == "sqlite" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs=patient,
            heartbeat_interval=heartbeat_seconds,
            grace_period=MISSED_BEATS * heartbeat_seconds,
            heartbeat_stale_trial_callback=requeue,
        )


def _check_setup(study: Study, setup: Mapping[str, Any], n_trials: int) -> None:
    """Note what a new study compares; raise UserError if one that was begun compares something else."""
    before = study.user_attrs.get(SETUP)
    name = study.study_name
    if before is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"study {name}: not begun by train search. Give another --study-name.")
        study.set_user_attr(SETUP, dict(setup))
    else:
        was, now = leaves(before), leaves(dict(setup))
        for key in sorted((was.keys() | now.keys()) - TrainingConfig.retired.keys()):
            if was.get(key) != now.get(key):
                raise UserError(
                    f"study {name}: begun with {key} {was.get(key, 'unset')}, now it is {now.get(key, 'unset')}. Go on "
                    "with the first, or give another --study-name."
                )
    asked = study.user_attrs.get(N_TRIALS, 0)
    if n_trials < asked:
        raise UserError(
            f"study {name}: {asked} trials were asked for, now n_trials is {n_trials}. Set it to {asked} or more."
        )
    if n_trials > asked:
        study.set_user_attr(N_TRIALS, n_trials)

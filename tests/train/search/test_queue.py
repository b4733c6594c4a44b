"""Exactly as many trials as were asked for, with several processes, kills anywhere, and reruns."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from common.errors import UserError
from train.search.queue import FAILURE, PROCESS, SLOT, TrialError, is_done, open_queue

ROOT = Path(__file__).resolve().parents[3]
WORKERS = """
import os, sys, time
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from train.search.queue import open_queue

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    time.sleep(0.1)
    return x

def work(url, trials):
    queue = open_queue(
        url, "s", setup={"lr": 1}, n_trials=trials, maximise=True, pruner=NopPruner(), heartbeat_seconds=2
    )
    while queue.left():
        if not queue.run_next(objective, RandomSampler):
            time.sleep(0.1)

url, trials, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(workers):
    if os.fork() == 0:
        try:
            work(url, trials)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    print(workers, flush=True)
for line in sys.stdin:  # one more worker for each line
    if os.fork() == 0:
        work(url, trials)
        os._exit(0)
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def opened(url):
    """opened(n_trials=3) is a queue, as each process of a search opens it."""

    def open_it(n_trials=3, *, setup=None, study_name="s"):
        return open_queue(
            url,
            study_name,
            setup=setup or {"lr": 1, "lora": {"r": 4}},
            n_trials=n_trials,
            maximise=True,
            pruner=NopPruner(),
            heartbeat_seconds=2,
        )

    return open_it


class StoppedError(Exception): ...


def plain(trial):
    return trial.suggest_float("x", 0, 1)


def run_all(queue, objective=plain):
    while queue.run_next(objective, RandomSampler):
        pass


def slots(queue):
    """Slot of every trial that is done."""
    return sorted(trial.user_attrs[SLOT] for trial in queue.study.get_trials() if is_done(trial))


def test_a_study_has_as_many_trials_as_were_asked_for_and_more_when_more_are(opened):
    queue = opened(3)
    assert queue.left() == 3
    run_all(queue)
    assert (queue.left(), slots(queue)) == (0, [0, 1, 2])
    run_all(opened(3))
    assert len(queue.study.get_trials()) == 3
    longer = opened(5)
    assert longer.left() == 2
    run_all(longer)
    assert slots(longer) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError) as caught:
        opened(4)
    assert str(caught.value) == "study s: 5 trials were asked for, now n_trials is 4. Set it to 5 or more."


def test_what_a_slot_draws_does_not_depend_on_earlier_stops(opened, tmp_path):
    def stops_once(trial):
        value = plain(trial)
        if trial.number == 1:
            raise StoppedError
        return value

    queue = opened(4)
    with pytest.raises(StoppedError):
        run_all(queue, stops_once)
    assert queue.left() == 3
    run_all(opened(4))
    drawn = {trial.user_attrs[SLOT]: trial.params["x"] for trial in queue.study.get_trials() if is_done(trial)}
    assert len(queue.study.get_trials()) == 5
    other = opened(4, study_name="other")
    run_all(other)
    assert drawn == {trial.user_attrs[SLOT]: trial.params["x"] for trial in other.study.get_trials()}


def test_a_failure_is_recorded_once_and_the_search_goes_on(opened):
    def fails_once(trial):
        if trial.user_attrs[SLOT] == 1:
            trial.set_user_attr(FAILURE, "out of memory")
            raise TrialError
        return plain(trial)

    queue = opened(3)
    run_all(queue, fails_once)
    assert (queue.left(), slots(queue)) == (0, [0, 1, 2])
    states = [trial.state for trial in queue.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


def test_a_stopped_trial_begins_anew_with_its_values_and_without_its_traces(opened):
    def stops(trial):
        plain(trial)
        trial.report(0.5, 3)
        trial.set_user_attr("figures", {"a": 1})
        trial.set_constraint("listens", 1.0)
        trial.storage.set_trial_system_attr(trial._trial_id, "completed_rung_0", 0.5)
        raise StoppedError

    queue = opened(1)
    with pytest.raises(StoppedError):
        run_all(queue, stops)
    queue.refill()
    queue.refill()
    first, second = queue.study.get_trials()
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.WAITING)
    assert second.params == first.params
    assert second.user_attrs == {SLOT: 0}
    assert not second.intermediate_values
    assert not second.constraints
    assert not [name for name in second.system_attrs if name.startswith("completed_rung_")]
    assert optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(second) == first.number


def test_a_trial_whose_process_died_before_its_first_heartbeat_is_found(opened):
    queue = opened(1)
    queue.refill()
    assert queue.study._pop_waiting_trial_id() is not None  # taken, and then a kill
    run_all(opened(1))
    assert [trial.state for trial in queue.study.get_trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_process_that_was_taken_for_dead_goes_on_with_the_next(opened, capsys):
    def lost_once(trial):
        if trial.number == 0:  # another process finds no heartbeat and closes it
            queue.study.tell(0, state=TrialState.FAIL)
            queue.refill()
        trial.report(1.0, 1)
        return plain(trial)

    queue = opened(2)
    run_all(queue, lost_once)
    assert slots(queue) == [0, 1]
    assert "its trial was queued again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({"lr": 2, "lora": {"r": 4}}, "begun with lr 1, now it is 2"),
        ({"lr": 1, "lora": {"r": 8}}, "begun with lora.r 4, now it is 8"),
        ({"lr": 1, "lora": {"r": 4}, "seed": 0}, "begun with seed unset, now it is 0"),
    ],
)
def test_a_study_goes_on_as_it_was_begun(opened, setup, message):
    opened()
    opened()
    with pytest.raises(UserError) as caught:
        opened(setup=setup)
    assert str(caught.value) == f"study s: {message}. Go on with the first, or give another --study-name."


def test_a_study_of_another_program_is_left_alone(opened, url):
    optuna.create_study(storage=url, study_name="theirs").optimize(plain, n_trials=1)
    with pytest.raises(UserError) as caught:
        opened(study_name="theirs")
    assert str(caught.value) == "study theirs: not begun by train search. Give another --study-name."


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("optuna.db", "--storage optuna.db: no storage URL. Write it as sqlite:///optuna.db."),
        (
            "sqlite://",
            "--storage sqlite://: such a study ends with this process. Name a file: sqlite:///optuna.db.",
        ),
        (
            "sqlite:////nowhere/at/all.db",
            "--storage sqlite:////nowhere/at/all.db: cannot be opened (unable to open database file). Give an Optuna "
            "storage, such as sqlite:///optuna.db.",
        ),
    ],
)
def test_a_storage_that_cannot_be_is_one_line(opened, message):
    with pytest.raises(UserError) as caught:
        opened()
    assert str(caught.value) == message


def test_a_password_is_not_shown(opened, monkeypatch):
    with pytest.raises(UserError) as caught:
        open_queue(
            "postgresql://me:secret@localhost:1/db",
            "s",
            setup={},
            n_trials=1,
            maximise=True,
            pruner=NopPruner(),
            heartbeat_seconds=2,
        )
    assert str(caught.value).startswith("--storage postgresql://me:***@localhost:1/db: cannot be opened (")
    assert "secret" not in str(caught.value)


def test_several_processes_and_kills_lose_and_double_no_trial(opened, url):
    """Three workers at 30 trials; five times one at work is killed, and another takes its place."""
    draw = random.Random(3)
    workers = subprocess.Popen(
        [sys.executable, "-c", WORKERS, url, "30", "3"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert workers.stdin is not None
    assert workers.stdout is not None
    workers.stdout.readline()
    queue = opened(30, setup={"lr": 1})
    killed = set()
    while len(killed) < 5 and queue.left():
        running = queue.study.get_trials(states=(TrialState.RUNNING,))
        at_work = {trial.user_attrs[PROCESS] for trial in running if PROCESS in trial.user_attrs} - killed
        if at_work:
            time.sleep(draw.random() * 0.05)
            chosen = draw.choice(sorted(at_work))
            os.kill(int(chosen.rpartition(":")[2]), signal.SIGKILL)
            killed.add(chosen)
            workers.stdin.write("\n")
            workers.stdin.flush()
    workers.communicate()
    deadline = time.monotonic() + 60
    while queue.left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert Counter(slots(queue)) == Counter(range(30))
    states = Counter(trial.state for trial in queue.study.get_trials())
    assert states[TrialState.COMPLETE] == 30
    assert len(killed) == 5
    assert 1 <= states[TrialState.FAIL] <= 5
    assert not states.keys() - {TrialState.COMPLETE, TrialState.FAIL}

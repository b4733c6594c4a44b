"""The command as several processes run it on one SQLite file, killed and continued; what they open; the dashboard."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from models.loading.checkpoint import TINY

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = """
import json, os, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)

import torch
import train.loop.validation
import train.search.process
from common.command import run
from train.cli import app

torch.set_num_threads(1)
train.loop.validation.FEWEST_CLIPS = 2  # as few_clips has it
job = json.load(sys.stdin)
os.chdir(job["folder"])
children = {}
for number in range(job["processes"]):
    child = os.fork()
    if child == 0:
        before = len(opened)
        try:
            run(app, job["arguments"])
        except SystemExit as stopped:
            sys.stdout.flush()
            with open(f"opened{number}.json", "w") as file:
                json.dump(opened[before:], file)
            os._exit(stopped.code)
    children[child] = number
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes))
"""
RATE = {"type": "loguniform", "low": 1e-5, "high": 3e-2}
SPACE = {"learning_rate": RATE, "controlnet_scale": {"type": "float", "low": 0.5, "high": 2.0}}


@pytest.fixture
def folder(song_shards, tiny_config, tmp_path):
    """A folder with run.json, search.json and shards."""
    for mode in ("image2image", "controlnet"):
        config = tiny_config(song_shards, mode, max_steps=50, accumulate_grad_batches=1, crop_seconds=1.0)
        (tmp_path / f"{mode}.json").write_text(config.model_dump_json())
    search = {
        "search_space": SPACE,
        "trial_steps": 4,
        "report_every_n_steps": 2,
        "pruner_n_startup_trials": 2,
        "pruner_n_warmup_steps": 2,
        "heartbeat_seconds": 2,
    }
    (tmp_path / "search.json").write_text(json.dumps(search))
    return tmp_path


@contextmanager
def searching(folder, mode, trials, *, processes):
    """`train search` as so many processes; the codes they end with come through communicate()."""
    arguments = ["search", "--config", f"{mode}.json", "--optuna_config", "search.json", "--study_name", mode]
    arguments += ["--set", f"n_trials={trials}"]
    with subprocess.Popen(
        [sys.executable, "-c", PROCESSES],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    ) as running:
        assert running.stdin is not None
        running.stdin.write(json.dumps({"folder": str(folder), "arguments": arguments, "processes": processes}))
        running.stdin.close()
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


def ended(running):
    """(codes, everything else that was printed, stderr) once all processes have ended."""
    out, err = running.stdout.read(), running.stderr.read()
    *printed, codes = out.strip().splitlines()
    return json.loads(codes), printed, err


def trials_of(folder, study_name):
    """The trials of a study as they stand, also while others write."""
    if not begun(folder / "optuna.db"):  # who opens a storage before it is made would make it too
        return []
    return optuna.load_study(study_name=study_name, storage=f"sqlite:///{folder}/optuna.db").get_trials()


def begun(database):
    """Whether a study has trials, without touching anything."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            return opened.execute("SELECT count(*) FROM trials").fetchone()[0] > 0
    except sqlite3.OperationalError:
        return False


def kill_one_at_work(folder, study_name, *, after):
    """kill -9 a process amid a trial once `after` trials are done; the trial's number comes back."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        trials = trials_of(folder, study_name)
        at_work = [trial for trial in trials if trial.state == TrialState.RUNNING and "process" in trial.user_attrs]
        if at_work and sum(trial.state.is_finished() for trial in trials) >= after:
            os.kill(int(at_work[-1].user_attrs["process"].rpartition(":")[2]), signal.SIGKILL)
            return at_work[-1].number
        time.sleep(0.05)
    raise AssertionError("no trial began")


def assert_exact(folder, study_name, count):
    """Every slot was brought to an end once, and nothing else is in the study but what was stopped."""
    trials = trials_of(folder, study_name)
    done = [trial for trial in trials if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}]
    assert Counter(trial.user_attrs["slot"] for trial in done) == Counter(range(count))
    rest = [trial for trial in trials if trial not in done]
    assert {trial.state for trial in rest} <= {TrialState.FAIL}
    return done, rest


def test_one_of_two_processes_is_killed_and_the_other_brings_the_study_to_its_number(folder):
    with searching(folder, "image2image", 4, processes=2) as running:
        number = kill_one_at_work(folder, "image2image", after=0)
        codes, printed, err = ended(running)
    assert sorted(codes) == [-signal.SIGKILL, 0], err
    _, stopped = assert_exact(folder, "image2image", 4)
    assert [trial.number for trial in stopped] == [number]
    assert printed[0].startswith("4 trials: ")
    assert printed[0].endswith("; 1 stopped and begun anew")
    assert "left out of the search, as they mean nothing in mode image2image: controlnet_scale" in err
    check_what_was_opened(folder)


def check_what_was_opened(folder):
    """The surviving process read each shard once, and of the base the transformer only; no sound at all."""
    (noted,) = folder.glob("opened*.json")
    paths = [Path(path) for path in json.loads(noted.read_text())]
    shards = Counter(path.name for path in paths if path.suffix == ".tar")
    assert shards == Counter(path.name for path in (folder / "shards").glob("*.tar"))
    parts = {part.name for part in TINY.iterdir() if part.is_dir()}
    assert {piece for path in paths for piece in path.parts} & parts == {"ace_step_transformer"}
    assert not [path for path in paths if path.suffix in {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"}]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
def test_twelve_trials_killed_and_continued(folder, mode):
    """One process is killed and begun again, then one of two; at least one trial is pruned."""
    with searching(folder, mode, 12, processes=1) as running:
        kill_one_at_work(folder, mode, after=3)
        assert ended(running)[0] == [-signal.SIGKILL]
    with searching(folder, mode, 12, processes=2) as running:
        kill_one_at_work(folder, mode, after=8)
        codes, _, err = ended(running)
    assert sorted(codes) == [-signal.SIGKILL, 0], err
    done, stopped = assert_exact(folder, mode, 12)
    assert 1 <= len(stopped) <= 2
    assert sum(trial.state == TrialState.PRUNED for trial in done) >= 1
    with searching(folder, mode, 13, processes=2) as running:
        assert ended(running)[0] == [0, 0]
    assert_exact(folder, mode, 13)


def test_the_dashboard_shows_a_study(tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="shown", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("optuna-dashboard"), storage, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as dashboard:
        try:
            assert answer(f"http://127.0.0.1:{port}/dashboard/", dashboard).startswith("<!DOCTYPE html>")
            assert '"shown"' in answer(f"http://127.0.0.1:{port}/api/studies", dashboard)
        finally:
            dashboard.kill()


def answer(url, server):
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.status == 200
                return response.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer: {server.stderr.read() if server.poll() is not None else 'in time'}")

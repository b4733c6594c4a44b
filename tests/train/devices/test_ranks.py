"""Two processes of one run end together: after the same step on a signal, and soon where one of them is lost.

Ranks are forked from a process that has imported everything, as a launcher of another make would start them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shards.reader import read_manifest
from train.loop.checkpoint import find_last

ROOT = Path(__file__).resolve().parents[3]
NURSERY = """
import json, os, signal, sys, time, traceback
from types import SimpleNamespace
import psutil
import torch
from train.cli import main
from train.data.loader import BatchLoader
import train.loop.validation
from train.loop.validation import Validation

torch.set_num_threads(1)
train.loop.validation.FEWEST_CLIPS = 2  # as few_clips has it
LIMIT_SECONDS = 100

def hurt(rank, place, count, act):
    \"\"\"At the `count`-th batch or validation, this rank gets a signal, or its validation turns out otherwise.

    Or it sees `count` bytes of free memory.
    \"\"\"
    if place == "memory":
        psutil.virtual_memory = lambda: SimpleNamespace(available=count)
        return
    whole, ask, asked = BatchLoader.__iter__, Validation.__call__, [0]

    def batches(loader):
        for clips in whole(loader):
            if loader.handed == count:
                os.kill(os.getpid(), act)
            yield clips

    def validate(validation, module):
        asked[0] += 1
        if asked[0] == count and act:
            os.kill(os.getpid(), act)
        figures = ask(validation, module)
        if asked[0] == count and not act:
            object.__setattr__(figures.gains["x0_gain"], "value", -1.0)
        return figures

    if place == "batch":
        BatchLoader.__iter__ = batches
    else:
        Validation.__call__ = validate

def rank(number, job):
    os.environ.update(LOCAL_RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"]))
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(f"{job['notes']}.{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
    for hurt_rank, place, count, act in job["hurts"]:
        if hurt_rank == number:
            hurt(number, place, count, act)
    sys.argv = ["train", *job["arguments"]]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    return 1

def ended(children):
    limit = time.monotonic() + LIMIT_SECONDS
    codes = {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > limit:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]

for line in sys.stdin:
    job, children = json.loads(line), []
    for number in range(2):
        child = os.fork()
        if child == 0:
            code = rank(number, job)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    print(json.dumps(ended(children)), flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate()


@pytest.fixture
def ranks(nursery, tmp_path):
    """ranks(config, *hurts, more=()) runs `train run` on two ranks; the exit code of each."""

    def run(config, *hurts, more=()):
        file = tmp_path / f"{config.exp_name}.json"
        file.write_text(config.model_dump_json())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = ["run", "--config", str(file), "--devices", "2", *more]
        job = {"notes": str(tmp_path / config.exp_name), "hurts": hurts, "arguments": arguments, "port": port}
        nursery.stdin.write(json.dumps(job) + "\n")
        nursery.stdin.flush()
        return json.loads(nursery.stdout.readline())

    return run


@pytest.fixture
def config(tiny_config, song_shards):
    """Four steps of two batches on each rank, with a validation after two and after four of them."""

    def make(name="run", **settings):
        given = {"max_steps": 4, "batch_size": 1, "checkpoint_every_n_steps": 100, "val_every_n_steps": 2} | settings
        return tiny_config(song_shards, exp_name=name, **given)

    return make


def state(config):
    """What last.ckpt and the newest adapter hold, but for how Lightning counts what it did since the process began."""
    last = find_last(config)
    held = torch.load(last, weights_only=True)
    assert held["global_step"] == config.max_steps
    (adapter,) = last.parent.glob(f"*-step={config.max_steps}_lora")
    kept = {name: value for name, value in held.items() if name not in {"loops", "config"}}
    return kept | {path.name: load_file(path) for path in adapter.glob("*.safetensors")}


def leaves(value, name=""):
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, item in items for path, leaf in leaves(item, f"{name}/{key}").items()}


def assert_same(one, other):
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


@pytest.fixture(scope="module")
def uninterrupted():
    """Where the end of the run that nothing stopped is kept, once it is known."""
    return {}


TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)


@pytest.mark.parametrize(
    ("hurts", "code"),
    [
        pytest.param([(0, "batch", 3, TERM)], 143, marks=pytest.mark.slow),
        ([(1, "batch", 3, TERM)], 143),
        pytest.param([(1, "batch", 4, INT)], 130, marks=pytest.mark.slow),
        ([(0, "batch", 3, INT), (1, "batch", 4, TERM)], 143),
        ([(1, "validation", 1, TERM)], 143),
    ],
    ids=["rank 0", "rank 1 amid accumulation", "rank 1 by Ctrl-C", "both", "rank 1 while validating"],
)
def test_a_signal_to_any_rank_stops_all_after_one_step_and_the_run_goes_on(ranks, config, uninterrupted, hurts, code):
    run = config()
    assert ranks(run, *hurts) == [code, code]
    assert torch.load(find_last(run), weights_only=True)["global_step"] == 2
    assert ranks(run, more=("--resume",)) == [0, 0]
    if not uninterrupted:
        whole = config("whole")
        assert ranks(whole) == [0, 0]
        uninterrupted.update(state(whole))
    assert_same(state(run), uninterrupted)


def test_ranks_whose_validations_differ_decide_alike(ranks, config):
    """As GPUs' may, by rounding: what rank 0 found counts."""
    early = config(val_every_n_steps=1, early_stop_patience=1)
    assert ranks(early, (1, "validation", 2, 0)) == [0, 0]
    assert torch.load(find_last(early), weights_only=True)["global_step"] == 4


@pytest.mark.parametrize(("room", "where"), [((5, 5), "in memory"), ((5, 3), "streamed")])
def test_ranks_share_the_memory_of_a_machine_and_keep_or_stream_alike(
    ranks, config, song_shards, tmp_path, room, where
):
    """A quarter of what is free is for each of two; one that sees less than four times the shards streams for both."""
    run = config(max_steps=1, val_fraction=0.0)
    size = sum(entry.bytes for entry in read_manifest(song_shards).shards)
    assert ranks(run, *((rank, "memory", times * size, 0) for rank, times in enumerate(room))) == [0, 0]
    assert f"segments to train on ({where})" in (tmp_path / "run.0.err").read_text()


@pytest.mark.slow
def test_a_divided_base_renders(ranks, config):
    """And learns what it learns without: nothing of training is drawn or moved by it."""
    given = {"max_steps": 1, "val_every_n_steps": 1, "crop_seconds": 0.8}
    for name, settings in (("silent", {}), ("rendered", {"render_every_n_steps": 1})):
        assert ranks(config(name, **given, **settings), more=("--strategy", "fsdp")) == [0, 0]
    silent, rendered = (find_last(config(name, **given)) for name in ("silent", "rendered"))
    assert_same(*(torch.load(last, weights_only=True)["state_dict"] for last in (silent, rendered)))
    shown = EventAccumulator(str(rendered.parents[1])).Reload().Tags()
    assert len(shown["audio"]) == len(shown["images"]) == 4


LOSING = """
import os, sys
import torch
from common.errors import UserError
from train.cli import main
from train.data.loader import BatchLoader

torch.set_num_threads(1)
whole = BatchLoader.__iter__

def batches(loader):
    for clips in whole(loader):
        if loader.handed == 5 and int(os.environ.get("LOCAL_RANK", 0)) == {rank}:
            {act}
        yield clips

BatchLoader.__iter__ = batches
if __name__ == "__main__":
    main()
"""
SPOILED = 'raise UserError("shard-000001.tar is spoiled")'
KILLED = "os.kill(os.getpid(), 9)"
LOST = "and the others cannot go on without it. What was saved before stays: --resume."


@pytest.mark.parametrize(
    ("rank", "act", "code", "lines"),
    [
        (1, SPOILED, 2, ["error: shard-000001.tar is spoiled", f"error: rank 1 ended with code 2, {LOST}"]),
        pytest.param(1, KILLED, 137, [f"error: rank 1 was ended by SIGKILL, {LOST}"], marks=pytest.mark.slow),
        pytest.param(0, SPOILED, 2, ["error: shard-000001.tar is spoiled"], marks=pytest.mark.slow),
        pytest.param(
            0, KILLED, -9, ["error: rank 1: the process that started it is gone. It ends too."], marks=pytest.mark.slow
        ),
    ],
    ids=["spoiled sample", "killed", "spoiled sample of rank 0", "rank 0 killed"],
)
def test_no_rank_waits_for_one_that_is_lost(config, tmp_path, rank, act, code, lines):
    """Amid the third step; a checkpoint was written after the second."""
    run = config(val_fraction=0.0, checkpoint_every_n_steps=2)
    (tmp_path / "config.json").write_text(run.model_dump_json())
    (tmp_path / "run.py").write_text(LOSING.format(rank=rank, act=act))
    command = [sys.executable, tmp_path / "run.py", "run", "--config", tmp_path / "config.json", "--devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200
    )  # ends when both processes have closed stderr
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == lines
    assert torch.load(find_last(run), weights_only=True)["global_step"] == 2

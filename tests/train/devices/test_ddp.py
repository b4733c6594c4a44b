"""Two processes share the songs of an epoch, through `train run --devices 2`."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shards.reader import read_manifest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, os, sys
sys.path.insert(0, {root!r})
import torch
from train.cli import main
from train.data.loader import BatchLoader

torch.set_num_threads(1)
whole = BatchLoader.__iter__

def noted(loader):
    for clips in whole(loader):
        row = [loader.epoch, clips.keys, clips.weight.tolist()]
        with open(os.path.join({notes!r}, str(os.getpid())), "a") as file:
            file.write(json.dumps(row) + "\\n")
        yield clips

BatchLoader.__iter__ = noted
if __name__ == "__main__":
    main()
"""


@pytest.fixture(params=["image2image", "context"])
def mode(request) -> str:
    """That of ACE-Step v1, or that of 1.5."""
    return request.param


@pytest.fixture
def song_shards(mode, make_shards, make_source_shards, song_lengths) -> Path:
    """Those of the base of the mode."""
    make = make_source_shards if mode == "context" else make_shards
    return make(song_lengths)


@pytest.fixture
def train_run(song_shards, mode, tiny_config, tmp_path):
    """train_run("--devices", "2", ...) with a small config in a process of its own, which notes what it was handed."""
    config = tiny_config(song_shards, mode, batch_size=1, val_fraction=0.0, checkpoint_every_n_steps=100)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "notes").mkdir()
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(root=str(ROOT), notes=str(tmp_path / "notes")))

    def run(*arguments):
        command = [sys.executable, str(script), "run", "--config", str(tmp_path / "config.json"), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280
        )

    return run


def handed(tmp_path):
    """Rows of every process so far: (epoch, keys, weights)."""
    notes = sorted((tmp_path / "notes").iterdir())
    return [[json.loads(line) for line in note.read_text().splitlines()] for note in notes]


def uses(rows, epoch):
    """How often each sample counted in an epoch."""
    return Counter(key for at, keys, weights in rows for key in keys if at == epoch and all(weights))


MORE = ("--resume", "--set", "max_steps=9", "--set", "num_workers=0")


def first_run(train_run):
    """Amid the second epoch: accumulating 2, an epoch is 6 batches on each of two processes."""
    first = train_run("--devices", "2", "--set", "max_steps=4")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("step 4 after ")
    return first


@pytest.mark.slow
def test_two_processes_see_every_sample_once_an_epoch_also_after_a_resume(train_run, song_shards, tmp_path):
    once = Counter(segment.key for shard in read_manifest(song_shards).shards for segment in shard.segments)
    first_run(train_run)
    assert [len(rows) for rows in handed(tmp_path)] == [8, 8]
    assert uses([row for rows in handed(tmp_path) for row in rows], 0) == once
    second = train_run("--devices", "2", *MORE)
    assert second.returncode == 0, second.stderr
    assert sorted(len(rows) for rows in handed(tmp_path)) == [8, 8, 10, 10]
    rows = [row for rows in handed(tmp_path) for row in rows]
    assert [uses(rows, epoch) for epoch in range(3)] == [once] * 3


@pytest.mark.slow
def test_another_number_of_processes_goes_on_from_the_start_of_an_epoch(train_run, song_shards, tmp_path):
    once = Counter(segment.key for shard in read_manifest(song_shards).shards for segment in shard.segments)
    first_run(train_run)
    alone = train_run("--devices", "1", *MORE)
    assert alone.returncode == 2
    assert alone.stderr.splitlines()[-1] == (
        "error: the checkpoint stands amid an epoch, after 2 batches on each of 2 devices; now there are 1, which can "
        "only go on from the start of an epoch. Resume with --devices 2."
    )
    assert train_run("--devices", "2", *MORE).returncode == 0
    third = train_run("--devices", "1", "--resume", "--set", "max_steps=15")  # 11 batches are an epoch of one process
    assert third.returncode == 0, third.stderr
    assert uses([row for rows in handed(tmp_path) for row in rows], 3) == once

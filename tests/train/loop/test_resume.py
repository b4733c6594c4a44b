"""A run that was killed and went on equals one that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import train.data.loader
from common.errors import UserError
from train.config import TrainingConfig
from train.loop.checkpoint import check_resumable, find_last, locate
from train.loop.fit import TrainingResult, fit

pytestmark = pytest.mark.usefixtures("few_clips")

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import json, os, signal, sys
import torch
import train.data.loader
import train.loop.validation
from train.config import TrainingConfig
from train.loop.fit import fit

train.loop.validation.FEWEST_CLIPS = 2  # as few_clips has it

def killed_at(batches, loader, at):
    for batch in batches:
        if loader.handed == at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

def run(job):
    torch.set_num_threads(1)
    train.data.loader.MEMORY_SHARE = job["memory_share"]
    whole = train.data.loader.BatchLoader.__iter__
    train.data.loader.BatchLoader.__iter__ = lambda loader: killed_at(whole(loader), loader, job["at"])
    fit(TrainingConfig.model_validate_json(job["config"]))

for job in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        run(job)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed(jobs):
    """Run each job in a process of its own that is killed when batch `at` is handed out; how each ended."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(jobs),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def contents(outcome):
    """Everything in the adapter folder (a safetensors header lists its metadata in any order)."""
    files = {path.name: (load_file(path), metadata_of(path)) for path in outcome.adapter.glob("*.safetensors")}
    return files | {"adapter.json": (outcome.adapter / "adapter.json").read_bytes()}


def state(outcome):
    """All that last.ckpt holds, but for how Lightning counts what it did since the process began."""
    held = torch.load(outcome.folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {name: value for name, value in held.items() if name not in {"loops", "config"}}


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def leaves(value, name=""):
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, item in items for path, leaf in leaves(item, f"{name}/{key}").items()}


def assert_same_end(one, other):
    assert one.step == other.step
    assert one.figures == other.figures
    assert one.adapter.name == other.adapter.name
    for kind in (contents, state):
        mine, theirs = (leaves(kind(end)) for end in (one, other))
        assert mine.keys() == theirs.keys()
        differing = [name for name, value in mine.items() if not same(value, theirs[name])]
        assert not differing


@dataclass(frozen=True)
class Kill:
    """A run that is killed when batch `at` is handed out."""

    config: TrainingConfig
    at: int
    memory_share: float


def check_resumption(kills, tmp_path, monkeypatch):
    """Each run is killed, goes on with another number of workers, and is compared with one that was not."""
    assert killed(
        [{"config": kill.config.model_dump_json(), "at": kill.at, "memory_share": kill.memory_share} for kill in kills]
    ) == [-signal.SIGKILL] * len(kills)
    whole: dict[str, TrainingResult] = {}
    for kill in kills:
        monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", kill.memory_share)
        resumed = fit(kill.config.model_copy(update={"num_workers": 1}), resume_from=find_last(kill.config))
        mode = kill.config.accompaniment.mode
        if mode not in whole:
            whole[mode] = fit(kill.config.model_copy(update={"logger_dir": str(tmp_path / "whole")}))
        assert resumed.folder.name == "version_0"
        assert_same_end(resumed, whole[mode])


TO_Q = {"r": 4, "lora_alpha": 4, "lora_dropout": 0.1, "target_modules": ("to_q",)}
IMAGE2IMAGE = {"lora": TO_Q | {"use_dora": True}, "val_every_n_steps": 3}
CONTROLNET = {
    "lora": TO_Q,
    "val_fraction": 0.0,
    "ema_decay": 0.9,
    "ema_warmup": True,
    "high_noise_share": 0.5,
    "joint_dropout": 0.3,
}


def stopped(tiny_config, song_shards, tmp_path, mode, settings, name=None):
    """Four steps of two batches, a checkpoint after two of them; an epoch is 4 (image2image) or 6 batches."""
    given = {"logger_dir": str(tmp_path / "stopped"), "exp_name": name or mode} | settings
    return tiny_config(song_shards, mode, max_steps=4, checkpoint_every_n_steps=2, **given)


def test_interrupted_and_resumed_equals_uninterrupted(song_shards, tiny_config, tmp_path, monkeypatch):
    """SIGKILL amid an accumulation and an epoch, in memory and streamed, then another number of workers."""
    given = (song_shards, tmp_path)
    kills = [
        Kill(stopped(tiny_config, *given, "image2image", IMAGE2IMAGE), at=7, memory_share=0.5),
        Kill(stopped(tiny_config, *given, "controlnet", CONTROLNET), at=5, memory_share=0.0),
    ]
    check_resumption(kills, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("memory_share", [0.5, 0.0])
@pytest.mark.parametrize(("mode", "settings"), [("image2image", IMAGE2IMAGE), ("controlnet", CONTROLNET)])
def test_wherever_it_is_killed(song_shards, tiny_config, tmp_path, monkeypatch, mode, settings, memory_share):
    kills = [
        Kill(stopped(tiny_config, song_shards, tmp_path, mode, settings, f"run{at}"), at, memory_share)
        for at in (5, 6, 7, 8)
    ]
    check_resumption(kills, tmp_path, monkeypatch)


def finished(tiny_config, song_shards):
    config = tiny_config(song_shards, max_steps=2, val_fraction=0.0)
    return config, fit(config)


def test_a_finished_run_goes_on_to_more_steps_but_as_nothing_else(song_shards, tiny_config, tmp_path):
    config, outcome = finished(tiny_config, song_shards)
    last = outcome.folder / "checkpoints" / "last.ckpt"

    def complaint(**changes):
        with pytest.raises(UserError) as caught:
            fit(TrainingConfig(**config.model_dump() | changes), resume_from=last)
        return str(caught.value)

    assert complaint() == f"{last}: stands at step 2 of max_steps 2. Raise max_steps to go on."
    assert complaint(learning_rate=0.5, max_steps=3) == (
        f"{last}: trained with learning_rate 0.001, now it is 0.5. Resume with the first, or start anew."
    )
    checkpoint = torch.load(last, weights_only=True)
    for name in ("high_noise_share", "joint_dropout", "ema_warmup"):  # as if from before there was that setting
        del checkpoint["config"][name]
    torch.save(checkpoint, last)
    assert complaint(joint_dropout=0.1, max_steps=3) == (
        f"{last}: trained with joint_dropout 0.0, now it is 0.1. Resume with the first, or start anew."
    )
    assert complaint(high_noise_share=0.3, max_steps=3) == (
        f"{last}: trained with high_noise_share 0.0, now it is 0.3. Resume with the first, or start anew."
    )
    checkpoint["config"]["high_noise_share"] = 0.0  # what null stands for in image2image
    torch.save(checkpoint, last)
    longer = fit(config.model_copy(update={"max_steps": 3}), resume_from=last)
    assert (longer.step, longer.folder) == (3, outcome.folder)
    last.write_bytes(b"half")
    assert complaint().startswith(f"{last}: cannot be read (")
    assert complaint().endswith("). Resume from another, or start anew.")


def test_a_checkpoint_may_be_named_from_inside_its_folder(song_shards, tiny_config, tmp_path, monkeypatch):
    config, outcome = finished(tiny_config, song_shards)
    monkeypatch.chdir(outcome.folder / "checkpoints")
    longer = fit(config.model_copy(update={"max_steps": 3}), resume_from=locate(Path("last.ckpt")))
    assert (longer.step, longer.folder) == (3, outcome.folder)


def test_another_base_is_refused(song_shards, tiny_config, tmp_path):
    config, outcome = finished(tiny_config, song_shards)
    last = outcome.folder / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError) as caught:
        check_resumable(last, config, "c" * 64)
    base = torch.load(last, weights_only=True)["base"]
    assert str(caught.value) == (
        f"{last}: trained on the base {base[:8]}, this one is cccccccc. Give the --checkpoint-dir of the first run."
    )


def test_the_newest_version_with_a_checkpoint_is_found(tiny_config, tmp_path):
    config = tiny_config(tmp_path / "shards")
    experiment = tmp_path / "runs" / "image2image"
    with pytest.raises(UserError) as caught:
        find_last(config)
    assert (
        str(caught.value) == f"{experiment}: no last.ckpt in any version of this experiment. Start it without --resume."
    )
    for version in (2, 10):
        (experiment / f"version_{version}" / "checkpoints").mkdir(parents=True)
        (experiment / f"version_{version}" / "checkpoints" / "last.ckpt").touch()
    (experiment / "version_11").mkdir()
    newest = experiment / "version_10" / "checkpoints" / "last.ckpt"
    assert find_last(config) == newest
    assert locate(newest) == locate(newest.parent) == locate(newest.parents[1]) == newest
    with pytest.raises(UserError) as caught:
        locate(experiment / "version_11")
    assert str(caught.value) == (
        f"{experiment}/version_11: no last.ckpt there. "
        "Give one, or the version folder that holds checkpoints/last.ckpt."
    )

"""What a run opens and how much memory it takes, noted by a process of its own over one streamed epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from models.loading.checkpoint import TINY
from train.config import LoRAConfig, TrainingConfig

ROOT = Path(__file__).resolve().parents[3]
RETURNED_AT_ONCE = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Settings under which glibc keeps little of what was freed, so that resident memory is memory in use."""
SCRIPT = """
import json, sys
opened = set()
sys.addaudithook(lambda event, given: opened.add(str(given[0])) if event == "open" else None)

import psutil, torch
from lightning.pytorch import Callback
import train.data.loader
from train.config import TrainingConfig
from train.loop.fit import fit

class Memory(Callback):
    def on_train_start(self, trainer, module):
        self.base, self.taken = psutil.Process().memory_info().rss, []
    def on_train_batch_end(self, *_):
        self.taken.append(psutil.Process().memory_info().rss - self.base)

torch.set_num_threads(1)
train.data.loader.MEMORY_SHARE = 0.0
memory = Memory()
fit(TrainingConfig.model_validate_json(sys.stdin.read()), callbacks=[memory])
print(json.dumps({"opened": sorted(opened), "taken": memory.taken}))
"""


@pytest.fixture
def noted(make_shards, tmp_path):
    """Every path opened, and the bytes above the loaded base after each step of an epoch over 64 shards."""
    shards = make_shards({f"song{n}": [180 + n % 30] * 2 for n in range(128)}, shard_samples=4)
    config = TrainingConfig(
        lora=LoRAConfig(r=4, lora_alpha=4),
        dataset_path=str(shards),
        crop_seconds=8.0,
        batch_size=2,
        max_steps=128,
        gradient_checkpointing=False,
        val_fraction=0.0,
        checkpoint_every_n_steps=16,
        logger_dir=str(tmp_path / "runs"),
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=config.model_dump_json(),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | RETURNED_AT_ONCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(streamed)" in done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_opens_no_part_but_the_transformer_and_needs_no_more_memory_as_it_goes(noted):
    parts = {part.name for part in TINY.iterdir() if part.is_dir()}
    assert {"ace_step_transformer", "music_dcae_f8c8", "music_vocoder", "umt5-base"} <= parts
    opened = {piece for path in noted["opened"] for piece in Path(path).parts}
    assert opened & parts == {"ace_step_transformer"}
    assert sum(Path(path).name.startswith("shard-") for path in noted["opened"]) >= 64
    taken = noted["taken"]
    assert len(taken) == 128
    assert median(taken[64:]) <= 1.02 * max(taken[:64])

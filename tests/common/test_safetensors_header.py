import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from common.safetensors_header import sort_metadata
from models.acestep1.sizes import TINY
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora, save_lora

ROOT = Path(__file__).resolve().parents[2]
METADATA = {"é音": 'a "quoted"\n\tline\\ \x01\x7f', "b": "2", "a": "", "format": "pt"}
TARGETS = ("to_q", "to_k", "to_v")


def write(path):
    save_file({"y": np.arange(6, dtype=np.float32), "x": np.zeros((2, 3), np.int16)}, path, METADATA)
    sort_metadata(path)


def write_all(folder):
    folder.mkdir()
    write(folder / "plain.safetensors")
    torch.manual_seed(0)
    transformer = ACEStepTransformer2DModel(**TINY.transformer)
    attach_lora(transformer, rank=2, alpha=2, target_modules=TARGETS)
    save_lora(transformer, folder)


def test_only_the_order_changes(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path)
    size = path.stat().st_size
    with safe_open(path, framework="np") as file:
        assert file.metadata() == METADATA
        assert np.array_equal(file.get_tensor("y"), np.arange(6))
        assert file.get_tensor("x").dtype == np.int16
    save_file({"y": np.arange(6, dtype=np.float32), "x": np.zeros((2, 3), np.int16)}, path, METADATA)
    assert path.stat().st_size == size


def test_one_process_writes_the_same_bytes_each_time(tmp_path):
    contents = set()
    for number in range(8):
        write(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


def run_with(seed, program, *arguments):
    """What a process of this hash seed prints."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_process_of_another_hash_seed_writes_the_same_bytes(tmp_path):
    """Under one that goes through the names of layers in another order than this process does."""
    order = f"print(*{set(TARGETS)!r})"
    seed = next(seed for seed in "012" if run_with(seed, order).split() != list(set(TARGETS)))
    write_all(tmp_path / "ours")
    program = "import sys, pathlib, test_safetensors_header as here; here.write_all(pathlib.Path(sys.argv[1]))"
    run_with(seed, program, str(tmp_path / "theirs"))
    for name in ("plain.safetensors", "pytorch_lora_weights.safetensors"):
        ours, theirs = ((tmp_path / folder / name).read_bytes() for folder in ("ours", "theirs"))
        assert ours == theirs, name

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from common.safetensors_header import sort_metadata

ROOT = Path(__file__).resolve().parents[2]
METADATA = {"é音": 'a "quoted"\n\tline\\ \x01\x7f', "b": "2", "a": "", "format": "pt"}
PROGRAM = """
import sys
from pathlib import Path

from test_safetensors_header import write

from models.acestep1.sizes import TINY
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora, save_lora

write(Path(sys.argv[1], "plain.safetensors"))
transformer = ACEStepTransformer2DModel(**TINY.transformer)
attach_lora(transformer, rank=2, alpha=2, target_modules=("to_q", "to_k", "to_v"))
save_lora(transformer, Path(sys.argv[1]))
"""


def write(path):
    save_file({"y": np.arange(6, dtype=np.float32), "x": np.zeros((2, 3), np.int16)}, path, METADATA)
    sort_metadata(path)


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


def test_processes_of_other_hash_seeds_write_the_same_bytes(tmp_path):
    started = []
    for seed in ("0", "1", "2"):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / seed)]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    assert [process.wait() for process in started] == [0, 0, 0]
    for name in ("plain.safetensors", "pytorch_lora_weights.safetensors"):
        contents = {hashlib.sha256((tmp_path / seed / name).read_bytes()).hexdigest() for seed in ("0", "1", "2")}
        assert len(contents) == 1, name

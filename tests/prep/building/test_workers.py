"""How prep's processes start, and on which devices."""

import ast
from pathlib import Path

import torch

from prep.building.workers import choose_devices, default_workers, worker_context

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("common", "models", "shards", "prep", "train", "infer", "demo", "recipe", "benchmarks")


def test_processes_for_gpus_begin_anew():
    """CUDA fails in a child of any process that has counted the GPUs, and the networks' libraries do as they load."""
    for devices in (("cuda:0",), ("cuda:0", "cuda:1"), ("mps",)):
        assert worker_context(devices).get_start_method() == "spawn"


def test_no_process_is_forked_from_one_with_threads():
    """Who makes processes says how they start, and "fork" is no choice."""
    makers = {"ProcessPoolExecutor": ("mp_context", 1), "get_context": ("method", 0)}
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            owner = ast.unparse(call.func)
            name = owner.rpartition(".")[2]
            assert owner not in ("os.fork", "multiprocessing.Pool", "multiprocessing.Process", "DataLoader"), where
            if name in makers:
                word, place = makers[name]
                given = [each.value for each in call.keywords if each.arg == word] + call.args[place : place + 1]
                assert given, f"{where}: how do these processes start?"
                assert not (isinstance(given[0], ast.Constant) and given[0].value in (None, "fork")), where


def test_processes_that_begin_anew_make_the_bytes_of_forked_ones(tmp_path, song, build, hashes, monkeypatch):
    for seed, key in enumerate("ab"):
        song(tmp_path / "raw", key, parts=("song",) if key == "b" else ("vocal", "mix"), seed=seed)
    build("as_here", workers=2)
    monkeypatch.setattr("prep.building.workers.FORKS_SAFELY", False)
    assert worker_context(("cpu",)).get_start_method() == "spawn"
    build("anew", workers=2)
    assert hashes(tmp_path / "as_here") == hashes(tmp_path / "anew")


def test_auto_is_every_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_devices("auto") == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_devices("auto") == ("cpu",)


def test_workers_by_default_are_one_a_core_or_three_a_gpu_but_none_for_under_four_songs(monkeypatch):
    monkeypatch.setattr("prep.building.workers.os.cpu_count", lambda: 8)
    assert [default_workers(("cpu",), songs) for songs in (1, 4, 5, 1000)] == [1, 1, 2, 8]
    assert default_workers(("cuda:0",), 1000) == 3
    assert default_workers(("cuda:0", "cuda:1", "cuda:2", "cuda:3"), 1000) == 8
    monkeypatch.setattr("prep.building.workers.os.cpu_count", lambda: 2)
    assert [default_workers(devices, 1000) for devices in (("cuda:0",), ("cuda:0", "cuda:1", "cuda:2"))] == [2, 3]

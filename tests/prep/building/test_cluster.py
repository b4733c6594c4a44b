"""A Ray cluster makes the bytes that this machine makes."""

import os
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from prep.building.cluster import room_for_workers
from prep.config import SeparatorConfig

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster():
    """A local Ray of two workers that keeps to itself."""
    root = str(Path(__file__).resolve().parents[3])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["tiny", "tiny15"])
def test_a_cluster_of_two_workers_gives_the_same_bytes(tmp_path, song, build, config, hashes, cluster, checkpoint):
    for seed, key in enumerate("abc"):
        song(tmp_path / "raw", key, parts=("song",) if key == "b" else ("vocal", "inst"), seed=seed)
    song(tmp_path / "raw", "short", seconds=0.7, seed=7)
    report = build("ray", engine="ray", workers=2, checkpoint=checkpoint)
    assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    alone = config.model_copy(update={"separator": SeparatorConfig(keep=False)})
    build("local", config=alone, checkpoint=checkpoint)
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")
    assert sorted({part.song for part in report.encoded}) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_disk_that_refuses_is_one_line(tmp_path, song, build, cluster, monkeypatch):
    song(tmp_path / "raw", "a", seed=1)

    def refuse(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prep.building.cluster.Path.write_bytes", refuse)
    with pytest.raises(UserError, match=r"safetensors: cannot be written \(No space left on device\)\.$"):
        build(engine="ray")


def test_without_ray_the_way_to_it_is_said(tmp_path, song, build, monkeypatch):
    song(tmp_path / "raw", "a")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError) as raised:
        build(engine="ray")
    assert str(raised.value) == "--engine ray needs Ray: uv sync --extra cluster, or pip install 'backline[cluster]'."


def machine(*, alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


def test_a_cluster_has_room_for_a_worker_on_each_gpu_or_on_so_many_cores():
    nodes = [machine(CPU=8.0, GPU=2.0), machine(CPU=3.0), machine(alive=False, CPU=64.0, GPU=8.0)]
    assert room_for_workers(nodes, gpu=True, threads=1) == 2
    assert room_for_workers(nodes, gpu=False, threads=1) == 11
    assert room_for_workers(nodes, gpu=False, threads=4) == 2


def test_a_cluster_without_room_is_one_line_and_no_wait():
    with pytest.raises(UserError) as raised:
        room_for_workers([machine(CPU=8.0), machine(CPU=4.0)], gpu=True, threads=1)
    assert str(raised.value) == (
        "--engine ray: Ray knows of no GPU on any of its 2 machines. See ray status, start Ray with --num-gpus where "
        "there is one, or use --device cpu."
    )
    with pytest.raises(UserError) as raised:
        room_for_workers([machine(CPU=2.0), machine(GPU=1.0)], gpu=False, threads=3)
    assert str(raised.value) == (
        "--engine ray: threads_per_worker is 3, and no machine gives Ray more than 2 cores. Lower it, or start Ray "
        "with more --num-cpus."
    )

"""Songs through the networks of a Ray cluster: what local processes do, wherever Ray has a free core or GPU.

Every node must see songs, checkpoint and this code under the same paths; segments come back as bytes and are written by
the machine that builds, so the folder of shards need not be shared.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from common.errors import UserError
from common.files import whole_file
from prep.building.jobs import EncodeSetup, SegmentResult, SongJob, encode_song
from prep.building.separation import usable_store

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else, under `uv run`, each worker builds its environment anew


@dataclass(frozen=True)
class Delivery:
    """A segment that was encoded, with its file; without one where the song cannot be used."""

    result: SegmentResult
    content: bytes | None


class Encoder:
    """One worker of the cluster, with networks that stay open; separated vocals are kept on its own machine."""

    def __init__(self, setup: EncodeSetup, device: str) -> None:
        torch.set_num_threads(setup.config.threads_per_worker)
        here = replace(setup, store=usable_store() if setup.store else None)
        self._encoder = here.open(device)

    def work(self, job: SongJob) -> Iterator[Delivery]:
        """Encode one song on this node's own disk."""
        with TemporaryDirectory() as folder:
            here = replace(job, cached=replace(job.cached, folder=Path(folder)))
            for result in encode_song(here, self._encoder):
                yield Delivery(result, None if result.rejection else here.cached.path(result.segment).read_bytes())


def run_in_cluster(jobs: Sequence[SongJob], setup: EncodeSetup, *, workers: int | None) -> Iterator[SegmentResult]:
    """Do all jobs, in any order, on the cluster that RAY_ADDRESS names, else on one that is started here.

    Raises UserError where Ray is not installed, has no room, or loses a worker.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--engine ray needs Ray: uv sync --extra cluster, or pip install 'backline[cluster]'."
        ) from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, configure_logging=False, log_to_driver=False, num_cpus=None)
    yield from _run(ray, jobs, setup, workers)


def _run(ray: Any, jobs: Sequence[SongJob], setup: EncodeSetup, workers: int | None) -> Iterator[SegmentResult]:
    gpu = torch.device(setup.devices[0]).type == "cuda"
    most = room_for_workers(ray.nodes(), gpu=gpu, threads=setup.config.threads_per_worker)
    count = min(workers or most, most, len(jobs))
    kind = ray.remote(num_cpus=0 if gpu else setup.config.threads_per_worker, num_gpus=int(gpu))(Encoder)
    crew = [kind.remote(setup, "cuda" if gpu else setup.devices[0]) for _ in range(count)]
    waiting = list(reversed(jobs))
    running = {_start(worker, job): (worker, job) for worker in crew if waiting and (job := waiting.pop())}
    try:
        while running:
            (ready, *_), _ = ray.wait(list(running))
            worker, job = running[ready]
            result = _deliver(ray, next(ready), job)
            yield result
            if result.is_last:
                del running[ready]
                if waiting:
                    job = waiting.pop()
                    running[_start(worker, job)] = (worker, job)
    finally:
        for worker in crew:
            ray.kill(worker)


def room_for_workers(nodes: Sequence[Mapping[str, Any]], *, gpu: bool, threads: int) -> int:
    """Workers that a cluster has room for: one a GPU, or one for so many cores of one machine.

    Raises UserError where it has none, for Ray would wait for ever.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    if gpu and not gpus:
        raise UserError(
            f"--engine ray: Ray knows of no GPU on any of its {len(machines)} machines. See ray status, start Ray "
            "with --num-gpus where there is one, or use --device cpu."
        )
    if not gpu and max(cores, default=0) < threads:
        raise UserError(
            f"--engine ray: threads_per_worker is {threads}, and no machine gives Ray more than "
            f"{max(cores, default=0)} cores. Lower it, or start Ray with more --num-cpus."
        )
    return gpus if gpu else sum(count // threads for count in cores)


def _start(worker: Any, job: SongJob) -> Any:
    """A generator of references to deliveries, each ready as soon as its segment is."""
    return worker.work.options(num_returns="streaming").remote(job)


def _deliver(ray: Any, ready: Any, job: SongJob) -> SegmentResult:
    try:
        delivery = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a Ray worker was lost ({type(error).__name__}). Run the same command again: it goes on."
        ) from None
    if delivery.content is not None:
        with whole_file(job.cached.path(delivery.result.segment)) as partial:
            partial.write_bytes(delivery.content)
    return delivery.result

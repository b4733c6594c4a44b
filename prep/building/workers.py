"""Songs through the networks, in this process or in several: a job caches all segments, or says why it cannot."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any, Literal

import torch

from common.errors import UserError
from common.system import FORKS_SAFELY, MOST_PROCESSES
from models.device import default_device, usable_device
from prep.building.jobs import EncodeSetup, SegmentResult, SongJob, encode_song
from prep.encoding.encode import SongEncoder

Engine = Literal["local", "ray"]
WORKERS_PER_GPU = 3
"""While one decodes, measures and levels, the networks of the others keep the card at work (benchmarks/busy.py)."""
SONGS_PER_WORKER = 4
"""Fewer songs are not worth the seconds that another process takes to start."""


def choose_devices(names: str) -> tuple[str, ...]:
    """The devices in "cuda:0,cuda:1"; "auto" is every GPU there is, else cpu. Raises UserError for others."""
    if names == "auto":
        kind = default_device().type
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) if kind == "cuda" else (kind,)
    devices = tuple(name.strip() for name in names.split(","))
    for name in devices:
        usable_device(name, choices="cpu, cuda, or cuda:0,cuda:1")
    if len({torch.device(name).type for name in devices}) > 1:
        raise UserError(
            f"--device {names}: one kind of device makes all of a build, for another kind rounds otherwise."
        )
    return devices


def run_jobs(
    jobs: Sequence[SongJob], setup: EncodeSetup, *, workers: int | None, engine: Engine = "local"
) -> Iterator[SegmentResult]:
    """Do all jobs, in any order, in processes of this machine or of a Ray cluster, and tell of each segment.

    Every job comes out the same whatever the number of workers, by default `default_workers`.
    Raises UserError where a worker is killed, or a disk refuses a segment.
    """
    if engine == "ray":
        from prep.building.cluster import run_in_cluster

        yield from run_in_cluster(jobs, setup, workers=workers)
        return
    workers = workers or default_workers(setup.devices, len(jobs))
    if min(workers, len(jobs)) <= 1:
        encoder = setup.open(setup.devices[0]) if jobs else None
        for job in jobs:
            assert encoder is not None
            yield from encode_song(job, encoder)
        return
    yield from _in_processes(jobs, setup, min(workers, len(jobs)))


def default_workers(devices: Sequence[str], songs: int) -> int:
    """One per core, but no more than WORKERS_PER_GPU per GPU, and than one per SONGS_PER_WORKER songs."""
    cores = os.cpu_count() or 1
    most = cores if tuple(devices) == ("cpu",) else max(min(cores, WORKERS_PER_GPU * len(devices)), len(devices))
    return max(min(most, math.ceil(songs / SONGS_PER_WORKER)), 1)


@contextmanager
def torch_threads(count: int) -> Generator[None]:
    """Run networks with so many CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(jobs: Sequence[SongJob], setup: EncodeSetup, workers: int) -> Iterator[SegmentResult]:
    context, devices = worker_context(setup.devices), setup.devices[:workers]
    lifeline, held = context.Pipe(duplex=False)
    futures: list[Future[list[SegmentResult]]] = []
    with ExitStack() as stack:
        for turn, device in enumerate(devices):
            crew = min(len(range(turn, workers, len(devices))), MOST_PROCESSES)
            started_with: tuple[Any, ...] = (setup.config.threads_per_worker, lifeline)
            pool = stack.enter_context(ProcessPoolExecutor(crew, context, _start, started_with))
            futures += [pool.submit(_work, job, setup, device) for job in jobs[turn :: len(devices)]]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker was killed, most likely for want of memory. Use fewer than --workers {workers}; what is "
                "done is kept, and the same command goes on from there."
            ) from None
        finally:
            held.close()


def worker_context(devices: Sequence[str]) -> BaseContext:
    """How processes for these devices start: never by a fork of this one, which has threads.

    On a CPU under Linux they are forked from a process that has only imported what they need. CUDA allows no child of a
    process that has counted its GPUs, as that import does, and other systems no fork: there each begins anew.
    """
    if not FORKS_SAFELY or any(torch.device(name).type != "cpu" for name in devices):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prep.building.workers", "models.acestep1.codec.codec"])
    return context


def _start(threads: int, lifeline: Connection) -> None:
    """Set up a worker process, which ends when the other end of its lifeline is closed or its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which lets go of the lifeline
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)


def _end_with(lifeline: Connection) -> None:
    wait([lifeline])
    os._exit(1)


@cache
def _encoder(setup: EncodeSetup, device: str) -> SongEncoder:
    return setup.open(device)


def _work(job: SongJob, setup: EncodeSetup, device: str) -> list[SegmentResult]:
    return list(encode_song(job, _encoder(setup, device)))

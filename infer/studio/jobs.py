"""The queue: one generation at a time, each with its place, its progress and its end, whatever becomes of it."""

import secrets
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil
import torch

from common.errors import UserError
from common.memory import explain_out_of_memory, ran_out
from common.progress import say
from infer.band.session import Session, SessionCancelledError, StepProgress
from infer.studio.folders import SessionFolders, StudioSession
from infer.studio.measuring import clip_of, measure_loudness, measure_take
from infer.studio.takes import BandSource, TakeOrder, make_takes

MOST_WAITING = 8
KEPT_JOBS = 20
"""Finished ones that are remembered."""

JobState = Literal["waiting", "running", "finished", "cancelled", "failed"]
Publish = Callable[[str, dict[str, Any]], None]
"""Called with the name of an event and what it says, from any thread."""


def memory_used() -> int:
    """Bytes that this process takes: the most of a GPU, or else of the machine now."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


class BusyError(UserError):
    """Too much is waiting."""


@dataclass
class BandJob:
    """One order on its way."""

    session: StudioSession
    order: TakeOrder
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: JobState = "waiting"
    takes: list[str] = field(default_factory=list)
    """Names of those that are kept."""
    at_take: int = 0
    step: int = 0
    steps: int = 0
    note: str = ""
    error: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def shown(self, position: int) -> dict[str, Any]:
        """What a page is told; `position` is how many come before it."""
        return {
            "id": self.id,
            "session": self.session.name,
            "state": self.state,
            "position": position,
            "takes": list(self.takes),
            "wanted": self.order.takes,
            "at_take": self.at_take,
            "step": self.step,
            "steps": self.steps,
            "note": self.note,
            "error": self.error,
        }


class BandQueue:
    """Jobs, and the thread that does them one after the other with networks that stay open."""

    def __init__(self, source: BandSource, folders: SessionFolders, publish: Publish = lambda name, said: None) -> None:
        self._source, self._folders, self._publish = source, folders, publish
        self._waiting: deque[BandJob] = deque()
        self._known: dict[str, BandJob] = {}
        self._running: BandJob | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._networks = self._new_networks()
        self._speed: float | None = None
        self._memory: int | None = None
        self._thread = threading.Thread(target=self._work, name="bands", daemon=True)
        self._thread.start()

    @property
    def seconds_a_step(self) -> float | None:
        """What a step took, for each second of the vocal, in the latest take; None before there was one."""
        return self._speed

    @property
    def memory_bytes(self) -> int | None:
        """The most that was seen in use after a step, of the GPU or else of the machine; None before there was one."""
        return self._memory

    def submit(self, session: StudioSession, order: TakeOrder) -> BandJob:
        """Put an order at the end of the queue. Raises BusyError where MOST_WAITING wait."""
        job = BandJob(session, order)
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} orders are waiting, which is the most. Wait for one, or cancel one.")
            self._waiting.append(job)
            self._known[job.id] = job
            self._changed.notify_all()
        self._tell_all()
        return job

    def cancel(self, job_id: str) -> bool:
        """Have a job stop: at once where it waits, else at its next step. False where there is none of that name."""
        with self._changed:
            job = self._known.get(job_id)
            if job is None:
                return False
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "cancelled"
        self._tell_all()
        return True

    def shown(self) -> list[dict[str, Any]]:
        """Every job that is remembered."""
        with self._changed:
            ahead = {job.id: place + (self._running is not None) for place, job in enumerate(self._waiting)}
            return [job.shown(ahead.get(job.id, 0)) for job in self._known.values()]

    def stop(self, *, patience_seconds: float) -> None:
        """End the running job at its next step, and the thread; those that wait are dropped."""
        with self._changed:
            self._stopping = True
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        self._thread.join(patience_seconds)

    def _new_networks(self) -> Session:
        return Session(on_progress=self._on_progress, is_cancelled=self._is_cancelled)

    def _is_cancelled(self) -> bool:
        return self._stopping or (self._running is not None and self._running.cancelled.is_set())

    def _on_progress(self, progress: StepProgress) -> None:
        job = self._running
        assert job is not None
        job.step, job.steps, job.note = progress.done, progress.total, progress.note
        self._memory = max(self._memory or 0, memory_used())
        self._publish("job", job.shown(0))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting)
                if self._stopping:
                    return
                job = self._running = self._waiting.popleft()
                job.state = "running"
            self._tell_all()
            self._do(job)
            with self._changed:
                self._running = None
                done = [other for other in self._known.values() if other.state not in ("waiting", "running")]
                for old in done[:-KEPT_JOBS]:
                    del self._known[old.id]
            self._tell_all()

    def _do(self, job: BandJob) -> None:
        """Whatever a job ends by, the queue goes on."""
        try:
            with self._memory_told():
                self._make(job)
            job.state = "finished"
        except SessionCancelledError:
            job.state = "cancelled"
        except UserError as error:
            job.state, job.error = "failed", str(error)
            if error.__cause__ is not None and ran_out(error.__cause__):
                self._networks = self._new_networks()  # what the old ones held is free
        except Exception as error:  # a mistake of ours ends one job, not the studio
            job.state, job.error = "failed", f"internal error ({type(error).__name__}: {error})"
            say(traceback.format_exc().rstrip())
        if job.error:
            job.error = " ".join(job.error.split())
            say(f"studio: {job.session.name}: {job.error}")

    def _memory_told(self) -> Any:
        return explain_out_of_memory(
            "making a take",
            "a shorter vocal",
            "close what else is using the device",
            "infer studio --precision bf16" if self._source.precision == "32" else None,
            "infer studio --device cpu",
        )

    def _make(self, job: BandJob) -> None:
        started = time.monotonic()

        def on_take(number: int) -> None:
            nonlocal started
            job.at_take, job.step, started = number, 0, time.monotonic()
            self._publish("job", job.shown(0))

        job.session.remember_prompt(job.order.prompt)
        for name in make_takes(self._source, job.order, job.session, self._folders, self._networks, on_take):
            job.takes.append(name)
            steps, seconds = max(job.steps, 1), job.session.card().voice.seconds
            self._speed = (time.monotonic() - started) / steps / seconds
            job.session.keep_measures(name, measure_loudness(job.session.take(name)))
            self._publish("take", {"session": job.session.name, "take": name})
        self._measure(job)

    def _measure(self, job: BandJob) -> None:
        job.note = "measuring"
        self._publish("job", job.shown(0))
        vocal, other = clip_of(job.session.vocal), self._another_vocal(job.session)
        for name in job.takes:
            if self._is_cancelled():
                return
            job.session.keep_measures(name, measure_take(job.session.take(name), vocal, other))
            self._publish("take", {"session": job.session.name, "take": name})

    def _another_vocal(self, session: StudioSession) -> Any:
        """That of the newest session with another recording, as a null."""
        ours = session.card().name
        for name in self._folders.names():
            other = self._folders.open(name)
            if name != session.name and other.card().name != ours:
                return clip_of(other.vocal)
        return None

    def _tell_all(self) -> None:
        self._publish("jobs", {"jobs": self.shown()})

"""A studio that runs in this process, and what asks it."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from common.audio.wave import write_audio
from infer.studio.serve import OpenStudio, StudioRequest
from infer.studio.takes import BandSource

RATE_HZ = 48_000
SUNG_SECONDS = 2.4


def sung(seconds: float = SUNG_SECONDS) -> np.ndarray:
    """Notes of A minor at 120 beats a minute [1, N]."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    hz = np.array([220.0, 261.6, 329.6, 261.6])[(time * 2).astype(int) % 4]
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    envelope = np.clip((0.42 - time % 0.5) / 0.05, 0, 1) * np.clip((time % 0.5) / 0.02, 0, 1)
    return (0.1 * envelope * (np.sin(phase) + 0.5 * np.sin(2 * phase)))[None].astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """What the studio said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line that an error is."""
        line = self.said["error"]
        assert "\n" not in line
        return line


@dataclass(frozen=True)
class RunningStudio:
    """A studio behind its address."""

    opened: OpenStudio
    folder: Path

    @property
    def address(self) -> str:
        return self.opened.address

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port
        return port

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request; a body that is no bytes is sent as JSON. Underscores of header names are hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, named = json.dumps(body).encode(), {"content-type": "application/json"} | named
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, named)
            answer: HTTPResponse = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def bring(self, path: Path, name: str = "me.wav") -> str:
        """Upload a recording; its session's name comes back."""
        answer = self.ask("POST", f"/api/sessions?name={name}", path.read_bytes())
        assert answer.status == 200, answer.body
        return answer.said["id"]

    def order(self, session: str, **wanted: Any) -> dict[str, Any]:
        """An order, once it has ended."""
        answer = self.ask("POST", f"/api/sessions/{session}/takes", {"takes": 1, "steps": 2} | wanted)
        assert answer.status == 200, answer.body
        return self.ended(answer.said["id"])

    def ended(self, job: str) -> dict[str, Any]:
        pause = threading.Event()
        for _ in range(3000):
            (found,) = [one for one in self.ask("GET", "/api/jobs").said if one["id"] == job]
            if found["state"] not in ("waiting", "running"):
                return found
            pause.wait(0.05)
        raise AssertionError("an order does not end")


@pytest.fixture(scope="session")
def open_studio(tmp_path_factory) -> Iterator[Callable[..., RunningStudio]]:
    """open_studio(adapters=(...), max_seconds=20) is a studio in a folder of its own; all end with the tests."""
    running: list[tuple[OpenStudio, threading.Thread]] = []

    def start(folder: Path | None = None, *, adapters: tuple[Path, ...] = (), **flags: Any) -> RunningStudio:
        folder = folder or tmp_path_factory.mktemp("sessions")
        source = BandSource(adapters, device="cpu")
        opened = OpenStudio(StudioRequest(source=source, sessions_dir=folder, port=0, **flags))
        answers = threading.Event()
        opened.when_started(answers.set)
        thread = threading.Thread(target=opened.run)
        thread.start()
        running.append((opened, thread))
        assert answers.wait(60)
        return RunningStudio(opened, folder)

    yield start
    for opened, thread in running:
        opened.stop()
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def studio(open_studio, adapter) -> RunningStudio:
    """One with an adapter, for recordings of at most 20 s."""
    return open_studio(adapters=(adapter,), max_seconds=20.0)


@pytest.fixture(scope="session")
def make_sung() -> Callable[[float], np.ndarray]:
    """make_sung(seconds) is a voice [1, N] at 48 kHz."""
    return sung


@pytest.fixture(scope="session")
def sung_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sung") / "sung.wav"
    write_audio(path, sung(), RATE_HZ, subtype="PCM_16")  # what a browser's fake microphone reads
    return path


@pytest.fixture(scope="session")
def session(studio, sung_file) -> str:
    """A session without takes."""
    return studio.bring(sung_file)

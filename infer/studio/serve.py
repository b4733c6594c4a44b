"""`infer studio`: the address, the server behind it, and its end."""

import asyncio
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from common.errors import UserError
from common.progress import say
from infer.studio.access import LOOPBACK, LOOPBACK_NAMES, AccessRules
from infer.studio.app import MOST_UPLOADS, Studio, create_app
from infer.studio.events import EventFeed
from infer.studio.folders import SessionFolders
from infer.studio.jobs import BandQueue
from infer.studio.takes import BandSource

TOKEN_BYTES = 18
PATIENCE_SECONDS = 10.0
"""What a running step is given to end in."""


@dataclass(frozen=True, kw_only=True)
class StudioRequest:
    """The flags of `infer studio`."""

    source: BandSource
    sessions_dir: Path = Path("sessions")
    host: str = LOOPBACK
    port: int = 7860
    max_seconds: float = 240.0
    open_browser: bool = False


class StudioServer(uvicorn.Server):
    """A server that ends its streams before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, events: EventFeed) -> None:
        super().__init__(config)
        self._events = events

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._events.close()
        super().handle_exit(sig, frame)


class OpenStudio:
    """A studio that listens, and answers while it runs.

    Raises UserError for an adapter that cannot be read, a folder that cannot be written, and a port that is taken.
    """

    def __init__(self, request: StudioRequest) -> None:
        defaults = request.source.defaults()
        self._listening = _listen(request.host, request.port)
        try:
            self._folders = SessionFolders(request.sessions_dir, request.source.harmoniser)
        except BaseException:
            self._listening.close()
            raise
        port = self._listening.getsockname()[1]
        token = None if request.host in LOOPBACK_NAMES else secrets.token_urlsafe(TOKEN_BYTES)
        self.address = _address(request.host, port, token)
        self.events = EventFeed()
        self.bands = BandQueue(request.source, self._folders, self.events.publish)
        uploads = asyncio.Semaphore(MOST_UPLOADS)
        studio = Studio(request.source, self._folders, self.bands, self.events, request.max_seconds, defaults, uploads)
        self._server = StudioServer(
            uvicorn.Config(
                create_app(studio, AccessRules(port, request.host, token)),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
            ),
            self.events,
        )

    def run(self) -> None:
        """Answer until `stop`, or an interrupt; the running take ends at its next step."""
        try:
            self._server.run(sockets=[self._listening])
        finally:
            self.events.close()
            self.bands.stop(patience_seconds=PATIENCE_SECONDS)
            self._folders.close()
            self._listening.close()

    def stop(self) -> None:
        """Have `run` end, from another thread."""
        self.events.close()
        self._server.should_exit = True

    def when_started(self, act: Callable[[], None]) -> None:
        """Call `act`, in a thread of its own, once requests are answered."""

        def wait() -> None:
            while not self._server.started and not self._server.should_exit:
                pause.wait(0.02)
            if self._server.started:
                act()

        pause = threading.Event()
        threading.Thread(target=wait, name="address", daemon=True).start()


def serve(request: StudioRequest, on_address: Callable[[str], None]) -> None:
    """Serve the studio until it is interrupted; `on_address` is called with its address once it answers.

    Raises UserError as OpenStudio does.
    """
    studio = OpenStudio(request)
    studio.when_started(lambda: _announce(request, studio.address, on_address))
    with suppress(KeyboardInterrupt):  # the server has stopped by then, and hands the interrupt on
        studio.run()
    say("studio: stopped. Sessions are kept.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}). Name another --port, or --port 0."
        ) from None
    listening.listen(128)
    return listening


def _address(host: str, port: int, token: str | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def _announce(request: StudioRequest, address: str, on_address: Callable[[str], None]) -> None:
    if request.host not in LOOPBACK_NAMES:
        say(
            f"warning: --host {request.host}: whoever reaches this machine and knows the address below can record, "
            "listen and generate here. It is not encrypted."
        )
    on_address(address)
    say("studio: Ctrl-C stops it.")
    if request.open_browser:
        webbrowser.open(address)

"""The studio's addresses: its page, and what the page asks for."""

import asyncio
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from common.canonical import unicode_text
from common.config import Config
from common.errors import UserError
from common.music.lead_sheet import LeadSheet
from common.pages import page_templates
from common.progress import say
from infer.compare.templates import ASSETS as COMPARE_ASSETS
from infer.studio.access import UPLOAD_PATH, AccessGuard, AccessRules
from infer.studio.events import EventFeed, event_text
from infer.studio.folders import WRITING, MissingError, SessionFolders, StudioSession
from infer.studio.jobs import BandQueue, BusyError
from infer.studio.sheets import SheetEdit, edited, sheet_view
from infer.studio.takes import MOST_STEPS, MOST_TAKES, BandSource, TakeOrder, check_order
from infer.studio.upload import TooLargeError, keep_recording, largest_upload, receive_upload, shown_name
from infer.studio.views import session_line, session_view

ASSETS = Path(__file__).with_name("assets")
SHARED_STYLE = COMPARE_ASSETS / "page.css"
"""What all pages of infer look like."""
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
STATUS = {MissingError: 404, TooLargeError: 413, BusyError: 429}
MOST_UPLOADS = 2
"""At a time."""
ZIP_BYTES = 1 << 20


class Part(Config):
    """Of a recording, in seconds."""

    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]


class Stars(Config):
    """0 takes them away."""

    stars: Literal[0, 1, 2, 3, 4, 5]


@dataclass(frozen=True)
class Studio:
    """What the addresses share."""

    source: BandSource
    folders: SessionFolders
    bands: BandQueue
    events: EventFeed
    max_seconds: float
    defaults: TakeOrder
    uploads: asyncio.Semaphore

    @property
    def description(self) -> dict[str, Any]:
        """What the page needs to know before anything is recorded."""
        return {
            "adapters": [unicode_text(folder.name) for folder in self.source.adapters],
            "base": self.source.checkpoint,
            "listens": bool(self.source.adapters),
            "takes_lead_sheet": self.source.takes_lead_sheet,
            "defaults": self.defaults.model_dump(mode="json"),
            "max_seconds": self.max_seconds,
            "max_bytes": largest_upload(self.max_seconds),
            "most_takes": MOST_TAKES,
            "most_steps": MOST_STEPS,
            "seconds_a_step": self.bands.seconds_a_step,
            "memory_bytes": self.bands.memory_bytes,
        }


def create_app(studio: Studio, rules: AccessRules) -> FastAPI:
    """The app behind its guard; nothing of it is fetched from elsewhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_pages(app)
    _add_sessions(app, studio)
    _add_takes(app, studio)
    _add_events(app, studio)
    _add_errors(app)
    app.add_middleware(AccessGuard, rules=rules)
    return app


def _add_pages(app: FastAPI) -> None:
    template = page_templates(ASSETS).get_template("studio.html")
    assets = {path.relative_to(ASSETS).as_posix(): path for path in ASSETS.rglob("*") if path.suffix in TYPES}
    assets["page.css"] = SHARED_STYLE

    @app.get("/")
    def page(request: Request) -> Response:
        return HTMLResponse(template.render(nonce=request.scope["nonce"]))

    @app.get("/assets/{name:path}")
    def asset(name: str) -> Response:
        if name not in assets:
            raise MissingError("there is no such file.")
        return FileResponse(assets[name], media_type=TYPES[assets[name].suffix])


def _add_sessions(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/studio")
    def describe() -> dict[str, Any]:
        return studio.description

    @app.get("/api/sessions")
    def sessions() -> list[dict[str, Any]]:
        return [session_line(studio.folders.open(name)) for name in studio.folders.names()]

    @app.post(UPLOAD_PATH)
    async def upload(request: Request, name: str = "") -> dict[str, Any]:
        if studio.uploads.locked():
            raise BusyError(f"{MOST_UPLOADS} recordings are coming in, which is the most. Try again.")
        async with studio.uploads:
            return session_view(await _new_session(studio, request, shown_name(name)))

    @app.get("/api/sessions/{session}")
    def one(session: str) -> dict[str, Any]:
        return session_view(studio.folders.open(session))

    @app.get("/api/sessions/{session}/voice")
    def voice(session: str) -> Response:
        return FileResponse(studio.folders.open(session).vocal, media_type="audio/wav")

    @app.post("/api/sessions/{session}/lead_sheet")
    def change(session: str, edit: Annotated[SheetEdit, Body()]) -> dict[str, Any]:
        found = studio.folders.open(session)
        with WRITING:
            sheet = edited(found.lead_sheet() or LeadSheet(), edit, found.card().voice.seconds)
            found.keep_lead_sheet(sheet)
        return sheet_view(sheet)

    @app.post("/api/sessions/{session}/cut")
    def cut(session: str, part: Annotated[Part, Body()]) -> dict[str, Any]:
        return session_view(studio.folders.cut(studio.folders.open(session), start=part.start, end=part.end))

    @app.get("/api/sessions/{session}/zip")
    def copy(session: str) -> Response:
        found = studio.folders.open(session)
        headers = {"content-disposition": f'attachment; filename="{found.name}.zip"'}
        return StreamingResponse(zipped(found), media_type="application/zip", headers=headers)


async def _new_session(studio: Studio, request: Request, name: str) -> StudioSession:
    limit = largest_upload(studio.max_seconds)
    if int(request.headers.get("content-length", "0")) > limit:
        raise TooLargeError(f"{name}: more than {limit / 1e6:.0f} MB, which is the most. Give a shorter one.")
    folder = studio.folders.making()
    try:
        received = folder / "upload"
        await receive_upload(request.stream(), received, limit=limit)

        def keep() -> StudioSession:
            wave = folder / "decoded.wav"
            keep_recording(received, wave, name=name, max_seconds=studio.max_seconds)
            received.unlink()
            return studio.folders.create(wave, name=name)

        return await asyncio.to_thread(keep)
    except UserError as error:
        raise type(error)(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def zipped(session: StudioSession) -> Iterator[bytes]:
    """A session's files as a zip, in pieces; it is made in a temporary file, of stored files."""
    with TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in session.files():
                archive.write(path, f"{session.name}/{path.name}")
        file.seek(0)
        while piece := file.read(ZIP_BYTES):
            yield piece


def _add_takes(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/sessions/{session}/takes")
    def order(session: str, order: Annotated[TakeOrder, Body()]) -> dict[str, Any]:
        found = studio.folders.open(session)
        check_order(studio.source, order, found)
        return studio.bands.submit(found, order).shown(0)

    @app.get("/api/jobs")
    def jobs() -> list[dict[str, Any]]:
        return studio.bands.shown()

    @app.post("/api/jobs/{job}/cancel")
    def cancel(job: str) -> dict[str, Any]:
        if not studio.bands.cancel(job):
            raise MissingError("there is no such order.")
        return {}

    @app.post("/api/sessions/{session}/takes/{take}/stars")
    def rate(session: str, take: str, given: Annotated[Stars, Body()]) -> dict[str, Any]:
        found = studio.folders.open(session)
        found.rate(found.take(take).name, given.stars)
        return {"stars": given.stars}

    @app.get("/api/sessions/{session}/takes/{take}/{kind}")
    def sound(session: str, take: str, kind: str) -> Response:
        found = studio.folders.open(session).take(take)
        files = {"sound": found.sound, "mix": found.mix, "record": found.folder / f"{found.name}.json"}
        if kind not in files:
            raise MissingError("there is no such file.")
        kept = files[kind]
        type_of = "application/json" if kind == "record" else "audio/wav"
        return FileResponse(kept, media_type=type_of, filename=f"{found.folder.name}_{kept.name}")


def _add_events(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/events")
    def events() -> Response:
        if studio.events.is_full:
            raise BusyError("too many pages are open. Close one.")
        first = event_text("jobs", {"jobs": studio.bands.shown()})
        return StreamingResponse(studio.events.listen(first), media_type="text/event-stream")


def _add_errors(app: FastAPI) -> None:
    """Every error is one line of JSON, under `error`."""

    @app.exception_handler(UserError)
    def mended(request: Request, error: UserError) -> Response:
        headers = {"connection": "close"} if isinstance(error, TooLargeError) else None  # the rest is not read
        return JSONResponse({"error": " ".join(str(error).split())}, STATUS.get(type(error), 400), headers)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where}: {first['msg']}".removeprefix(": ")}, 422)

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        say(f"studio: internal error ({type(error).__name__}: {error})")
        return JSONResponse({"error": "internal error; see the terminal."}, 500)

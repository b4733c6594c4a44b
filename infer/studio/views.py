"""What a page is told of sessions and takes, as JSON."""

from pathlib import Path
from typing import Any

from infer.request.record import AgainRecord
from infer.studio.folders import StoredTake, StudioSession
from infer.studio.sheets import sheet_view


def session_view(session: StudioSession) -> dict[str, Any]:
    """All of one session."""
    card, stars, sheet = session.card(), session.ratings().stars, session.lead_sheet()
    return {
        "id": session.name,
        "name": card.name,
        "created": card.created,
        "prompt": card.prompt,
        "voice": card.voice.model_dump(mode="json"),
        "sheet": None if sheet is None else sheet_view(sheet),
        "takes": [take_view(take, stars.get(take.name, 0)) for take in session.takes()],
    }


def session_line(session: StudioSession) -> dict[str, Any]:
    """What a list of sessions shows."""
    card = session.card()
    return {
        "id": session.name,
        "name": card.name,
        "created": card.created,
        "seconds": card.voice.seconds,
        "takes": len(session.takes()),
    }


def again_view(again: AgainRecord) -> dict[str, Any]:
    """Which region of which take was made anew."""
    return {"take": Path(again.take).stem, "start": again.start_seconds, "end": again.end_seconds}


def take_view(take: StoredTake, stars: int) -> dict[str, Any]:
    """One take, with the settings that made it."""
    record = take.record
    settings = record.settings
    return {
        "name": take.name,
        "has_voice": take.has_voice,
        "stars": stars,
        "prompt": record.prompt,
        "seed": settings.seed,
        "strength": settings.ref_strength,
        "weight": sum(settings.lora_weights) if settings.lora_weights else None,
        "steps": settings.sampler.steps,
        "voice_lufs": record.vocal.lufs,
        "seconds": record.samples / record.rate_hz,
        "again": None if record.again is None else again_view(record.again),
        "measures": take.measures.model_dump(mode="json") if take.measures else None,
    }

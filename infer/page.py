"""comparison.html: one page, with its style and script inside, that plays and rates what `infer compare` made.

The page holds its data as JSON, builds everything from it as text (nothing that a prompt or a name says is markup),
and finds its sounds and pictures by relative paths, so that the folder can be moved, zipped or put on a server.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.canonical import canonical_json, sha256_of
from common.config import check_config, read_json
from common.files import whole_file
from infer.record import Record
from infer.take import Sound, Take

ASSETS = Path(__file__).with_name("assets")
PAGE_FILE = "comparison.html"
TEMPLATE_FILE = "ratings_template.json"
AXES = (
    ("audio_quality", "Audio quality", "noisy, falls apart", "acceptable", "clear, professional"),
    ("vocal_alignment", "Fits the vocal", "nothing to do with it", "in step here and there", "in step throughout"),
    ("prompt_adherence", "Follows the prompt", "ignores it", "in part", "entirely"),
    ("musicality", "Musicality", "clashing, stumbling", "can be listened to", "natural, moving"),
    ("vocal_leakage", "Voice left in the band", "a great deal", "a trace", "none at all"),
)
"""Name, title, and what 1, 3 and 5 mean."""


@dataclass(frozen=True)
class Lane:
    """A take under its name, and the folder that holds it."""

    name: str
    folder: Path
    take: Take


@dataclass(frozen=True)
class Row:
    """One sample: its vocal, and what each model made of it."""

    key: str
    prompt: str
    vocal: Lane
    takes: tuple[Lane, ...]


def write_page(out: Path, rows: Sequence[Row]) -> Path:
    """Write comparison.html and ratings_template.json to `out`; the page's path comes back."""
    data = page_data(out, rows)
    _write(out / TEMPLATE_FILE, canonical_json(empty_ratings(rows), indent=2))
    page = fill("comparison.html", {"data": inline_json(data), "style": asset("page.css"), "script": asset("page.js")})
    _write(out / PAGE_FILE, page)
    return out / PAGE_FILE


def page_data(out: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """What the page shows. Its id changes with its content, so that progress kept for another page is not taken up."""
    data = {
        "axes": [dict(zip(("name", "title", "low", "middle", "high"), axis, strict=True)) for axis in AXES],
        "models": [lane.name for lane in rows[0].takes],
        "rows": [_row(out, row) for row in rows],
    }
    orders = [[lane.take.order for lane in (row.vocal, *row.takes)] for row in rows]
    return data | {"id": sha256_of([data["models"], [row.key for row in rows], orders])[:16]}


def _row(out: Path, row: Row) -> dict[str, Any]:
    takes = [lane.take for lane in row.takes]
    bands = matched_volumes([take.band for take in takes])
    mixes = matched_volumes([take.mix for take in takes])
    records = [_record(lane) for lane in row.takes]
    return {
        "key": row.key,
        "prompt": row.prompt,
        "lyrics": records[0].lyrics,
        "vocal": _sound(out, row.vocal, row.vocal.take.mix, 1.0),
        "takes": [
            {
                "band": lane.take.band and _sound(out, lane, lane.take.band, band),
                "mix": _sound(out, lane, lane.take.mix, mix),
                "settings": _settings(record) | {"turned down here": f"{20 * math.log10(1 / mix):.1f} dB"},
            }
            for lane, record, band, mix in zip(row.takes, records, bands, mixes, strict=True)
        ],
    }


def matched_volumes(sounds: Sequence[Sound | None]) -> list[float]:
    """Factors that make all as loud as the quietest of them: a page can turn a sound down, never up."""
    levels = [sound.lufs for sound in sounds if sound and sound.lufs is not None]
    quietest = min(levels, default=0.0)
    return [
        1.0 if sound is None or sound.lufs is None else round(10 ** ((quietest - sound.lufs) / 20), 4)
        for sound in sounds
    ]


def _sound(out: Path, lane: Lane, sound: Sound, volume: float) -> dict[str, Any]:
    folder = lane.folder.relative_to(out)
    names = {"audio": sound.audio, "wave": sound.wave, "mel": sound.mel}
    urls = {kind: quote((folder / name).as_posix()) for kind, name in names.items()}
    return {**urls, "volume": volume, "lufs": sound.lufs, "seconds": sound.seconds}


def _record(lane: Lane) -> Record:
    assert lane.take.record is not None
    path = lane.folder / lane.take.record
    return check_config(Record, read_json(path), str(path))


def _settings(record: Record) -> dict[str, str | float]:
    sampler = record.settings.sampler
    return {
        "mode": record.adapters[0].conditioning.mode,
        "trained steps": ", ".join(str(adapter.step) for adapter in record.adapters),
        "vocal strength": record.settings.ref_strength,
        "LoRA weight": ", ".join(f"{weight:g}" for weight in record.settings.lora_weights),
        "sampler": f"{sampler.scheduler}, {sampler.steps} steps",
        "guidance": f"{sampler.guidance} {sampler.guidance_scale:g}",
        "seed": record.settings.seed,
        "base": record.checkpoint_dir,
    }


def empty_ratings(rows: Sequence[Row]) -> dict[str, Any]:
    """A sheet file to fill by hand, of the form that the page exports."""
    scores = dict.fromkeys((name for name, *_ in AXES), None)
    sheets = [
        {"sample_id": row.key, "model": lane.name, "scores": scores, "comments": "", "overall": None}
        for row in rows
        for lane in row.takes
    ]
    return {"rater": "", "seed": None, "ratings": sheets, "pairs": []}


def inline_json(data: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or starts another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def asset(name: str) -> str:
    """A file that ships with the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template with each {{name}} replaced, in one pass, so that what is put in is not looked through."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], asset(template))


def _write(path: Path, content: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")

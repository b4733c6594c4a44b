"""comparison.html: one page, with its style and script inside, that plays and rates what `infer compare` made.

The page holds its data as JSON, builds everything from it as text (nothing that a prompt or a name says is markup),
and finds its sounds and pictures by relative paths, so that the folder can be moved, zipped or put on a server.

It is rated blind: neither the page nor the names of the files that it plays say which model is which, and in every row
the models stand in another order. names.js says it, which the page opens to show names or to export ratings.
"""

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.canonical import canonical_json, sha256_of
from common.config import check_config, read_json
from common.files import whole_file
from infer.compare.axes import AXES
from infer.compare.output import Output, Sound
from infer.compare.templates import asset, fill, inline_json
from infer.request.record import GenerationRecord

PAGE_FILE, NAMES_FILE, SOUND_FOLDER = "comparison.html", "names.js", "sounds"
TEMPLATE_FILE = "ratings_template.json"
FILES = ("audio", "wave", "mel")
"""Of a sound."""
PLAYED = re.compile(r"[0-9a-f]{20}\.(?:wav|png)")
"""What files in SOUND_FOLDER are called that a page put there; others are a user's."""


@dataclass(frozen=True)
class Lane:
    """An output under its name, and the folder that holds it."""

    name: str
    folder: Path
    output: Output


@dataclass(frozen=True)
class PageRow:
    """One sample: its vocal, and what each model made of it."""

    key: str
    prompt: str
    vocal: Lane
    outputs: tuple[Lane, ...]


@dataclass(frozen=True)
class PageData:
    """What the page shows of a comparison, and who is who in it."""

    shown: dict[str, Any]
    names: dict[str, Any]


def write_page(out: Path, rows: Sequence[PageRow]) -> Path:
    """Write comparison.html, names.js and ratings_template.json to `out`; the page's path comes back."""
    data = page_data(out, rows)
    _write(out / TEMPLATE_FILE, canonical_json(empty_ratings(rows), indent=2))
    _write(out / NAMES_FILE, f"window.backlineNames = {inline_json(data.names)};\n")
    _write(out / PAGE_FILE, fill("comparison.html", data=inline_json(data.shown), script=asset("page.js")))
    played = {Path(url).name for row in data.shown["rows"] for output in row["outputs"] for url in _urls(output)}
    for path in (out / SOUND_FOLDER).iterdir():
        if PLAYED.fullmatch(path.name) and path.name not in played:  # by an earlier page
            path.unlink()
    return out / PAGE_FILE


def page_data(out: Path, rows: Sequence[PageRow]) -> PageData:
    """All that the page needs, with its sounds and pictures in `out`/sounds.

    Its id changes with its content, so that progress kept for another page is not taken up.
    """
    models = [lane.name for lane in rows[0].outputs]
    mixed = [replace(row, outputs=tuple(sorted(row.outputs, key=lambda lane: _secret(row, lane)))) for row in rows]
    shown = {
        "axes": [{"name": name, **asdict(axis)} for name, axis in AXES.items()],
        "rows": [_row(out, row) for row in mixed],
    }
    names = {"models": models, "rows": [_names(row, models) for row in mixed]}
    orders = [[lane.output.order for lane in (row.vocal, *row.outputs)] for row in mixed]
    places = [row["models"] for row in names["rows"]]
    return PageData(shown | {"id": sha256_of([models, [row.key for row in rows], orders, places])[:16]}, names)


def _row(out: Path, row: PageRow) -> dict[str, Any]:
    bands, mixes = _volumes(row)
    return {
        "key": row.key,
        "prompt": row.prompt,
        "lyrics": _record(row.outputs[0]).lyrics,
        "vocal": _sound(row.vocal.output.mix, 1.0, _beside(out, row.vocal)),
        "outputs": [
            {
                "band": lane.output.band and _sound(lane.output.band, band, _under_other_names(out, row, lane)),
                "mix": _sound(lane.output.mix, mix, _under_other_names(out, row, lane)),
            }
            for lane, band, mix in zip(row.outputs, bands, mixes, strict=True)
        ],
    }


def _names(row: PageRow, models: Sequence[str]) -> dict[str, Any]:
    """Which model made each output of a row, and how."""
    _, mixes = _volumes(row)
    return {
        "models": [models.index(lane.name) for lane in row.outputs],
        "settings": [
            _settings(_record(lane)) | {"turned down here": f"{20 * math.log10(1 / mix):.1f} dB"}
            for lane, mix in zip(row.outputs, mixes, strict=True)
        ],
    }


def _volumes(row: PageRow) -> tuple[list[float], list[float]]:
    """Of each output's band and of its mix."""
    outputs = [lane.output for lane in row.outputs]
    return matched_volumes([output.band for output in outputs]), matched_volumes([output.mix for output in outputs])


def matched_volumes(sounds: Sequence[Sound | None]) -> list[float]:
    """Factors that make all as loud as the quietest of them: a page can turn a sound down, never up."""
    levels = [sound.lufs for sound in sounds if sound and sound.lufs is not None]
    quietest = min(levels, default=0.0)
    return [
        1.0 if sound is None or sound.lufs is None else round(10 ** ((quietest - sound.lufs) / 20), 4)
        for sound in sounds
    ]


def _sound(sound: Sound, volume: float, url_of: Callable[[str], str]) -> dict[str, Any]:
    urls = {kind: url_of(getattr(sound, kind)) for kind in FILES}
    return {**urls, "volume": volume, "lufs": sound.lufs, "seconds": sound.seconds}


def _urls(output: Mapping[str, Any]) -> list[str]:
    return [sound[kind] for sound in (output["band"], output["mix"]) if sound for kind in FILES]


def _beside(out: Path, lane: Lane) -> Callable[[str], str]:
    """Addresses of a lane's files where they lie."""
    return lambda name: quote((lane.folder.relative_to(out) / name).as_posix())


def _under_other_names(out: Path, row: PageRow, lane: Lane) -> Callable[[str], str]:
    """Addresses of an output's files in SOUND_FOLDER, under names that say nothing of its model."""

    def address(name: str) -> str:
        source, digest = lane.folder / name, sha256_of([_secret(row, lane), name])[:20]
        place = out / SOUND_FOLDER / f"{digest}{source.suffix}"
        with whole_file(place) as partial:
            try:
                partial.hardlink_to(source)
            except OSError:  # a disk that knows no links
                shutil.copy2(source, partial)
        return f"{SOUND_FOLDER}/{place.name}"

    return address


def _secret(row: PageRow, lane: Lane) -> str:
    """Another value for each output, from which nobody tells whose it is."""
    return sha256_of([row.key, lane.name, lane.output.order])


def _record(lane: Lane) -> GenerationRecord:
    assert lane.output.record is not None
    path = lane.folder / lane.output.record
    return check_config(GenerationRecord, read_json(path), str(path))


def _settings(record: GenerationRecord) -> dict[str, str | float]:
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


def empty_ratings(rows: Sequence[PageRow]) -> dict[str, Any]:
    """A sheet file to fill by hand, of the form that the page exports."""
    scores = dict.fromkeys(AXES)
    sheets = [
        {"sample_id": row.key, "model": lane.name, "scores": scores, "comments": "", "overall": None}
        for row in rows
        for lane in row.outputs
    ]
    return {"rater": "", "seed": None, "ratings": sheets, "pairs": []}


def _write(path: Path, content: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")

"""What is evaluated: for each vocal the bands made for it, and what is known of the true one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from common.audio.decode import AUDIO_SUFFIXES
from common.config import Config, check_config, read_json
from common.errors import UserError
from common.texts.naming import one_form, split_name
from infer.request.record import GenerationRecord

BAND_MARK = "_accompaniment"
SAFE = r'^[^./\\:*?"<>|\x00-\x1f][^/\\:*?"<>|\x00-\x1f]*$'


class ItemEntry(Config):
    """One item of a JSON list; paths are relative to the list."""

    key: Annotated[str, Field(pattern=SAFE, max_length=100)]
    """Names its row and its plot."""
    vocal: Path
    accompaniments: Annotated[tuple[Path, ...], Field(min_length=1)]
    """One for each seed."""
    true: Path | None = None
    """The accompaniment that the vocal was sung to."""
    text2music: tuple[Path, ...] = ()
    """Bands made from the prompt alone."""


class ItemList(Config):
    """A JSON list of items, under the name by which its mistakes are told."""

    items: Annotated[tuple[ItemEntry, ...], Field(min_length=1)]


@dataclass(frozen=True)
class EvaluationItem:
    """Files of one vocal."""

    key: str
    vocal: Path
    bands: tuple[Path, ...]
    true: Path | None
    text2music: tuple[Path, ...]


def read_items(source: Path, *, truth: Path | None, text2music: Path | None) -> tuple[EvaluationItem, ...]:
    """The items of a JSON list, or of a folder that `infer generate` filled (its sub-folders too), by their keys.

    In a folder, KEY's vocal is KEY_vocal.* of `truth`, else the file that KEY.json names.
    Raises UserError where a file is missing, a list is malformed, or nothing is there.
    """
    if not source.is_dir():
        return _read_list(source)
    bands = _bands_in(source)
    if not bands:
        raise UserError(f"{source}: holds no KEY{BAND_MARK}.wav. Name a folder that infer generate filled.")
    stems = _stems_in(truth) if truth else {}
    bare = _bands_in(text2music) if text2music else {}
    items = []
    for key, paths in bands.items():
        record = paths[0].with_name(f"{key}.json")
        song = _song_of(key, record, stems)
        vocal = stems.get(f"{one_form(song)}_vocal") or _recorded_vocal(record, key)
        items.append(EvaluationItem(key, vocal, paths, stems.get(f"{one_form(song)}_inst"), bare.get(song, ())))
    return tuple(items)


def _song_of(key: str, record: Path, stems: Mapping[str, Path]) -> str:
    """The vocal's own key, where another run's results had taken its name and its bands are called KEY_2."""
    if f"{one_form(key)}_vocal" in stems or not record.is_file():
        return key
    return check_config(GenerationRecord, read_json(record), str(record)).key


def records_of(items: Sequence[EvaluationItem]) -> Iterator[tuple[Path, GenerationRecord]]:
    """What `infer generate` wrote beside the bands of each item, where it lies there."""
    for item in items:
        path = item.bands[0].with_name(f"{item.key}.json")
        if path.is_file():
            yield path, _record(path)


def _record(path: Path) -> GenerationRecord:
    return check_config(GenerationRecord, read_json(path), str(path))


def _read_list(path: Path) -> tuple[EvaluationItem, ...]:
    entries = check_config(ItemList, {"items": read_json(path)}, str(path)).items
    at = path.parent
    return tuple(
        EvaluationItem(
            key=entry.key,
            vocal=at / entry.vocal,
            bands=tuple(at / band for band in entry.accompaniments),
            true=at / entry.true if entry.true else None,
            text2music=tuple(at / band for band in entry.text2music),
        )
        for entry in entries
    )


def _bands_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    """KEY_accompaniment.wav, or KEY_accompaniment_01.wav and so on, by key. A key may stand in one folder only."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(_files_in(folder)):
        key, mark, number = path.stem.rpartition(BAND_MARK)
        if mark and key and (not number or number[1:].isdigit()):
            found[key].append(path)
    for key, paths in found.items():
        folders = sorted({path.parent for path in paths})
        if len(folders) > 1:
            raise UserError(f"{folder}: {key} stands in {folders[0]} and in {folders[1]}. Evaluate one at a time.")
    return {key: tuple(paths) for key, paths in found.items()}


def _stems_in(folder: Path) -> Mapping[str, Path]:
    """Files by song and part, under the names that prep takes for them; KEY_vocal and KEY_inst come first.

    What infer writes is no truth, though prep would take a KEY_accompaniment for an inst.
    """
    paths = [path for path in sorted(_files_in(folder)) if BAND_MARK not in path.stem]
    named = {path: split_name(path.stem) for path in paths}
    loose = {f"{one_form(name.song)}_{name.part}": path for path, name in named.items()}
    return loose | {one_form(path.stem): path for path in paths}


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder.")
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES]


def _recorded_vocal(record: Path, key: str) -> Path:
    if record.is_file():
        vocal = _record(record).vocal.file
        if vocal and Path(vocal).is_file():
            return Path(vocal)
    raise UserError(f"{key}: its vocal is not known. Name the folder that holds {key}_vocal.* with --truth.")

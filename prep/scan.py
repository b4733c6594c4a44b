"""Finding songs in a folder: which files belong together, under which key, with which texts."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.canonical import unicode_text
from common.decode import AUDIO_SUFFIXES
from common.errors import UserError
from common.tags import one_line, tags_of
from common.text import UTF_8, Text
from common.text import read_text as text_in
from shards.schema import Part, Rejection, SongError
from shards.writer import rejection_of

NO_PROMPT, NO_LYRICS = "instrumental", "[instrumental]"
KEY_BYTES = 64
"""Longest key: with a segment's number and a field's name it must fit the 100 bytes of a tar's member."""
PART_NAME = re.compile(r"(?P<song>.+)_(?P<part>vocal|inst|mix)", re.DOTALL)
CLEAN = re.compile(r"[^\W_]+([_-][^\W_]+)*")
"""Words joined by one "_" or "-": such a name is its own key."""
UNSAFE = re.compile(r"[^\w-]")


@dataclass(frozen=True)
class Song:
    """A song as it lies on the disk."""

    key: str
    name: str
    """Path below the folder, with slashes, without part and suffix."""
    files: Mapping[Part, Path]
    prompt: str
    lyrics: str
    has_prompt: bool
    """False where no prompt was given and NO_PROMPT stands in."""
    recoded: Mapping[str, str] = field(default_factory=dict)
    """Encodings of its texts that are not in UTF-8, by the names of their files."""

    @property
    def is_full(self) -> bool:
        """Whether there is only the mix, which must be separated."""
        return set(self.files) == {"mix"}


@dataclass(frozen=True)
class Scan:
    """What a folder holds, by key."""

    songs: tuple[Song, ...]
    rejections: tuple[Rejection, ...]


def scan(raw: Path) -> Scan:
    """Find every song below `raw`. Raises UserError where there is no such folder, or nothing named like audio."""
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder.")
    groups: dict[str, dict[Part, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in _audio_files(raw, set()):
        song, part = split_name(path.stem)
        groups[_name(path.with_name(song), raw)][part].append(path)
    if not groups:
        raise UserError(f"{raw}: no songs in it (names that end in {', '.join(sorted(AUDIO_SUFFIXES))}).")
    songs, rejections = [], []
    for key, name in sorted((safe_key(name), name) for name in groups):
        try:
            songs.append(_song(key, name, groups[name]))
        except SongError as error:
            rejections.append(rejection_of(key, error))
    return Scan(tuple(songs), tuple(rejections))


def split_name(stem: str) -> tuple[str, Part]:
    """Song and part of a file's name: "ballad_vocal" is the vocal of ballad, "ballad" its mix."""
    match = PART_NAME.fullmatch(stem)
    if match is None:
        return stem, "mix"
    parts: dict[str, Part] = {"vocal": "vocal", "inst": "inst", "mix": "mix"}
    return match["song"], parts[match["part"]]


def safe_key(name: str) -> str:
    """A key that any file system and any tar reader takes, a function of the name alone, and different for each name.

    Letters and digits of any script, "-" and "_" stay, a folder's slash becomes "__". Where anything else had to be
    replaced or cut, eight digits of the name's hash follow.
    """
    parts = name.split("/")
    key = "__".join(UNSAFE.sub("_", part) for part in parts)
    if all(CLEAN.fullmatch(part) for part in parts) and len(key.encode()) <= KEY_BYTES:
        return key
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{key.encode()[: KEY_BYTES - 9].decode(errors='ignore').lstrip('-')}-{digest}"


def read_text(path: Path) -> Text | None:
    """A text beside a song, None where there is no such file; SongError for one that cannot be read."""
    try:
        return text_in(path, name=path.name)
    except UserError as error:
        raise SongError("bad_text", str(error)) from None


def _audio_files(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """What is named like audio, hidden names left out; links to folders are followed, but no folder is visited twice.

    A folder that is named like audio and holds none is given too, so that it is rejected and not overlooked.
    """
    real = folder.resolve()
    if real in visited:
        return
    visited.add(real)
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}).") from None
    for path in paths:
        if path.name.startswith("."):
            continue
        inside = list(_audio_files(path, visited)) if path.is_dir() else []
        yield from inside
        if not inside and path.suffix.lower() in AUDIO_SUFFIXES:
            yield path


def _name(path: Path, raw: Path) -> str:
    return unicodedata.normalize("NFC", path.relative_to(raw).as_posix())


def _song(key: str, name: str, found: Mapping[Part, list[Path]]) -> Song:
    for part, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise SongError("ambiguous", f"{names} are both the {part} of {name}. Keep one.")
    files = {part: paths[0] for part, paths in found.items()}
    if set(files) in ({"vocal"}, {"inst"}):
        (lone,) = files.values()
        raise SongError("orphan_stem", f"{lone.name}: one stem alone. Add the mix or the other stem.")
    first = next(iter(files.values()))
    folder, title = first.parent, split_name(first.stem)[0]
    paths = [folder / f"{title}_{kind}.txt" for kind in ("prompt", "lyrics")]
    texts = {path.name: text for path in paths if (text := read_text(path)) is not None}
    prompt, lyrics = (texts[path.name].content if path.name in texts else "" for path in paths)
    tags = one_line(prompt) if tags_of(prompt) else ""
    return Song(
        key,
        unicode_text(name),
        files,
        tags or NO_PROMPT,
        lyrics or NO_LYRICS,
        has_prompt=bool(tags),
        recoded={unicode_text(name): text.encoding for name, text in texts.items() if text.encoding != UTF_8},
    )

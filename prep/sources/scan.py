"""Finding songs in a folder: which files belong together, under which key, with which texts."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.audio.decode import AUDIO_SUFFIXES
from common.canonical import unicode_text
from common.errors import UserError
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet
from common.texts.naming import (
    INST,
    MIX,
    VOCAL,
    Named,
    chosen_text,
    one_form,
    split_name,
    stems_not_so_named,
    text_named,
)
from common.texts.tags import one_line, tags_of
from common.texts.text import UTF_8, Text
from common.texts.text import read_text as text_in
from shards.schema import Part, Rejection, SongError, lead_sheet_identity
from shards.writer import rejection_of

NO_PROMPT, NO_LYRICS = "instrumental", "[instrumental]"
TEXT_KINDS = ("prompt", "lyrics", "lead_sheet")
KEY_BYTES = 64
"""Longest key: with a segment's number and a field's name it must fit the 100 bytes of a tar's member."""
TRUTH = "_truth.json"
CLEAN = re.compile(r"[^\W_]+([_-][^\W_]+)*")
"""Words joined by one "_" or "-": such a name is its own key."""
UNSAFE = re.compile(r"[^\w-]")

Texts = dict[tuple[str, str], list[Path]]
"""Files that can be the texts of songs, by the song's name and the kind."""


@dataclass(frozen=True)
class SongFiles:
    """A song as it lies on the disk."""

    key: str
    name: str
    """Path below the folder, with slashes, without part and suffix."""
    files: Mapping[Part, Path]
    prompt: str
    lyrics: str
    has_prompt: bool
    """False where no prompt was given and NO_PROMPT stands in."""
    has_lyrics: bool = True
    """False where no lyrics were given and NO_LYRICS stands in."""
    recoded: Mapping[str, str] = field(default_factory=dict)
    """Encodings of its texts that are not in UTF-8, by the names of their files."""
    lead_sheet: LeadSheet | None = None
    """Of the whole song; None where none was given."""

    @cached_property
    def lead_sheet_sha256(self) -> str | None:
        """What a sample's note says of the whole sheet."""
        return lead_sheet_identity(self.lead_sheet)

    @property
    def is_full(self) -> bool:
        """Whether there is only the mix, which must be separated."""
        return set(self.files) == {"mix"}


@dataclass(frozen=True)
class Scan:
    """What a folder holds, by key."""

    songs: tuple[SongFiles, ...]
    rejections: tuple[Rejection, ...]
    unused: tuple[str, ...] = ()
    """Files that are neither audio nor a song's texts, by their paths below the folder."""


def scan(raw: Path) -> Scan:
    """Find every song below `raw`. Raises UserError where there is no such folder, or nothing named like audio."""
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder.")
    paths = list(_files(raw, set()))
    audio = [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise UserError(f"{raw}: no songs in it (names that end in {', '.join(sorted(AUDIO_SUFFIXES))}).")
    strange = dict(_strange(audio, raw))
    groups = _groups([path for path in audio if path not in strange], raw)
    texts: Texts = defaultdict(list)
    for path in paths:
        if path.suffix.lower() not in AUDIO_SUFFIXES and (named := text_named(path.name)):
            texts[_name(path.with_name(named[0]), raw), named[1]].append(path)
    songs, rejections, used = (
        [],
        [rejection_of(safe_key(_named_below(path, raw)), strange[path]) for path in strange],
        set(),
    )
    for key, name in sorted((safe_key(name), name) for name in groups):
        try:
            found = _texts_of(name, groups[name], texts)
            used |= set(found.values())
            songs.append(_song(key, name, groups[name], found))
        except SongError as error:
            rejections.append(rejection_of(key, error))
    unused = [path for path in paths if path not in used and not _belongs(path, raw, groups)]
    unused = sorted(unicode_text(path.relative_to(raw).as_posix()) for path in unused)
    return Scan(tuple(songs), tuple(sorted(rejections, key=lambda row: row.key)), tuple(unused))


def _groups(audio: Iterable[Path], raw: Path) -> dict[str, dict[Part, list[Path]]]:
    """The files of each song, by part."""
    groups: dict[str, dict[Part, list[Path]]] = defaultdict(lambda: defaultdict(list))
    parts: dict[str | None, Part] = {VOCAL: "vocal", INST: "inst", MIX: "mix"}
    for folder, paths in _by_folder(audio).items():
        stems = frozenset(path.stem for path in paths)
        for path in paths:
            named = split_name(path.stem, stems)
            groups[_name(folder / named.song, raw)][parts[named.part]].append(path)
    return groups


def _strange(audio: Iterable[Path], raw: Path) -> Iterator[tuple[Path, SongError]]:
    """Files that look like stems and are not read as any, each with what would be right."""
    for folder, paths in _by_folder(audio).items():
        found = stems_not_so_named([path.stem for path in paths], below=folder != raw)
        for path in paths:
            if (named := found.get(path.stem)) is not None:
                yield path, SongError("unknown_stem", _way_out(path, named, named.song.strip(" _.-") or folder.name))


def _way_out(path: Path, named: Named, song: str) -> str:
    if named.part is not None:
        return f"{path.name}: looks like the {named.part} of {song}. Name it {song}_{named.part}{path.suffix}."
    rest = f"two of {song}_vocal, {song}_inst and {song}_mix are enough"
    return f"{path.name}: looks like a stem of {song} ({named.word}), and only the sum is used. Leave it out; {rest}."


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def _texts_of(name: str, files: Mapping[Part, list[Path]], texts: Texts) -> dict[str, Path]:
    """A song's texts, by kind. Raises SongError where several files can be one."""
    title = split_name(next(iter(files.values()))[0].stem).song
    try:
        found = {kind: chosen_text(texts[name, kind], title, kind) for kind in TEXT_KINDS}
    except UserError as error:
        raise SongError("ambiguous", str(error)) from None
    return {kind: path for kind, path in found.items() if path is not None}


def _belongs(path: Path, raw: Path, groups: Mapping[str, object]) -> bool:
    """Whether a file is a song's audio, which is kept or rejected, or the truth that `prep demo-songs` wrote of it."""
    truth = path.name.endswith(TRUTH) and _name(path.with_name(path.name.removesuffix(TRUTH)), raw) in groups
    return path.suffix.lower() in AUDIO_SUFFIXES or truth


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
    """A text beside a song, None where there is no such file. Raises SongError for one that cannot be read."""
    try:
        return text_in(path, name=path.name)
    except UserError as error:
        raise SongError("bad_text", str(error)) from None


def _files(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """All files, hidden names left out; links to folders are followed, but no folder is visited twice.

    An empty folder that is named like audio or like a text is given too, so that it is rejected and not overlooked.
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
        inside = list(_files(path, visited)) if path.is_dir() else []
        yield from inside
        named = path.suffix.lower() in AUDIO_SUFFIXES or text_named(path.name)
        if not path.is_dir() or (named and not any(file.suffix.lower() in AUDIO_SUFFIXES for file in inside)):
            yield path


def _name(path: Path, raw: Path) -> str:
    return one_form(path.relative_to(raw).as_posix())


def _named_below(path: Path, raw: Path) -> str:
    return _name(path.with_name(path.stem), raw)


def _song(key: str, name: str, found: Mapping[Part, list[Path]], written: Mapping[str, Path]) -> SongFiles:
    for part, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise SongError("ambiguous", f"{names} are both the {part} of {name}. Keep one.")
    files = {part: paths[0] for part, paths in found.items()}
    if set(files) in ({"vocal"}, {"inst"}):
        (lone,) = files.values()
        raise SongError("orphan_stem", f"{lone.name}: one stem alone. Add the mix or the other stem.")
    texts = {kind: text for kind, path in written.items() if (text := read_text(path)) is not None}
    prompt, lyrics = (texts[kind].content if kind in texts else "" for kind in ("prompt", "lyrics"))
    tags = one_line(prompt) if tags_of(prompt) else ""
    recoded = {
        unicode_text(written[kind].name): text.encoding for kind, text in texts.items() if text.encoding != UTF_8
    }
    return SongFiles(
        key,
        unicode_text(name),
        files,
        tags or NO_PROMPT,
        lyrics or NO_LYRICS,
        has_prompt=bool(tags),
        has_lyrics=bool(lyrics),
        recoded=recoded,
        lead_sheet=_lead_sheet(texts["lead_sheet"], written["lead_sheet"]) if "lead_sheet" in texts else None,
    )


def _lead_sheet(text: Text, path: Path) -> LeadSheet | None:
    """What a lead sheet's file says; None for an empty one. Raises SongError for one that cannot be read."""
    try:
        return read_lead_sheet(text.content, unicode_text(path.name)) if text.content else None
    except UserError as error:
        raise SongError("bad_text", str(error)) from None

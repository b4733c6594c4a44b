"""Finding songs in a folder: which files belong together, under which key, with which texts."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.audio.decode import AUDIO_SUFFIXES
from common.canonical import unicode_text
from common.errors import UserError
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet
from common.texts.naming import chosen_text, text_named
from common.texts.tags import one_line, tags_of
from common.texts.text import UTF_8, Text
from common.texts.text import read_text as text_in
from prep.sources.layout import ResolvedStems, SongStems, lay_out, name_below
from shards.manifest import lead_sheet_identity
from shards.rejection import Rejection, SongError
from shards.schema import Part
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
"""Files that can be the texts of songs, by the song's name (a folder's with a slash behind it) and the kind."""


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
    added: tuple[Path, ...] = ()
    """Files that are added to that of the inst: the band is the sum of these stems."""
    beside: Path | None = None
    """Folder and title: its texts are `beside`_prompt.txt and so on."""
    texts: Mapping[str, Path] = field(default_factory=dict)
    """Files of its texts, by kind (prompt, lyrics, lead_sheet)."""
    parent: str | None = None
    """Key of the song that it is at another pitch; None for one that lies in the folder."""
    semitones: int = 0
    """So much higher than its files."""

    @property
    def sources(self) -> tuple[tuple[Part, Path], ...]:
        """Every file, with the part that it is or that it is added to."""
        return tuple(sorted([*self.files.items(), *(("inst", path) for path in self.added)]))

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
    """Files that are no song's audio and no song's texts, by their paths below the folder."""
    lone_parts: tuple[str, ...] = ()
    """Folders called like a part whose files are taken for full songs, for no other part of them is there."""


def scan(raw: Path) -> Scan:
    """Find every song below `raw`. Raises UserError where there is no such folder, or nothing named like audio."""
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder.")
    paths = list(_files(raw, set()))
    audio = [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise UserError(f"{raw}: no songs in it (names that end in {', '.join(sorted(AUDIO_SUFFIXES))}).")
    layout = lay_out(audio, raw)
    texts: Texts = defaultdict(list)
    for path in paths:
        if path.suffix.lower() not in AUDIO_SUFFIXES and (named := text_named(path.name)):
            folder = name_below(path.parent, raw)
            texts[named[0] if folder == "." else f"{folder}/{named[0]}", named[1]].append(path)
    songs, used, spare = list[SongFiles](), set[Path](), set[Path]()
    rejections = [
        rejection_of(safe_key(name_below(path.with_name(path.stem), raw)), error)
        for path, error in layout.strange.items()
    ]
    for key, name in sorted((safe_key(name), name) for name in layout.songs):
        try:
            stems = layout.songs[name].resolve(name)
            spare |= set(stems.unused)
            found = _texts_of(name, layout.songs[name], texts)
            used |= set(found.values())
            songs.append(_song(key, name, layout.songs[name].beside, stems, found))
        except SongError as error:
            rejections.append(rejection_of(key, error))
    unused = [path for path in paths if path in spare or (path not in used and not _belongs(path, raw, layout.songs))]
    return Scan(
        tuple(songs),
        tuple(sorted(rejections, key=lambda row: row.key)),
        tuple(sorted(unicode_text(path.relative_to(raw).as_posix()) for path in unused)),
        tuple(sorted(unicode_text(path.relative_to(raw).as_posix()) for path in layout.lone)),
    )


def _texts_of(name: str, stems: SongStems, texts: Texts) -> dict[str, Path]:
    """A song's texts, by kind: those beside it, else those inside its folder. Raises SongError for several."""
    title = stems.beside.name
    try:
        found = {
            kind: next(filter(None, (chosen_text(texts[at, kind], title, kind) for at in places)), None)
            for kind in TEXT_KINDS
            for places in [(name, *sorted(stems.places - {name}))]
        }
    except UserError as error:
        raise SongError("ambiguous", str(error)) from None
    return {kind: path for kind, path in found.items() if path is not None}


def _belongs(path: Path, raw: Path, groups: Mapping[str, object]) -> bool:
    """Whether a file is a song's audio, which is kept or rejected, or the truth that `prep demo-songs` wrote of it."""
    truth = path.name.endswith(TRUTH) and name_below(path.with_name(path.name.removesuffix(TRUTH)), raw) in groups
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


def _song(key: str, name: str, beside: Path, stems: ResolvedStems, written: Mapping[str, Path]) -> SongFiles:
    files = stems.files
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
        added=stems.added,
        beside=beside,
        texts=written,
    )


def _lead_sheet(text: Text, path: Path) -> LeadSheet | None:
    """What a lead sheet's file says; None for an empty one. Raises SongError for one that cannot be read."""
    try:
        return read_lead_sheet(text.content, unicode_text(path.name)) if text.content else None
    except UserError as error:
        raise SongError("bad_text", str(error)) from None

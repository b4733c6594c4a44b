"""Texts beside the songs of a folder: made for those that have none, written; what is there is left alone."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from common.errors import UserError
from common.files import whole_file
from common.progress import progress
from prep.sources.scan import SongFiles, scan

Outcome = Literal["written", "to write", "as it was", "has one", "unsure", "silent", "unreadable"]
SAID: dict[Outcome, str] = {
    "written": "{texts} written",
    "to write": "{texts} to write",
    "as it was": "as they were",
    "has one": "songs that have one",
    "unsure": "of which nothing is sure",
    "silent": "of which nothing is heard",
    "unreadable": "that cannot be read",
}
QUIET: tuple[Outcome, ...] = ("has one", "as it was")
"""Told as a number only."""


@dataclass(frozen=True)
class SongText:
    """A song's text, or why it gets none."""

    key: str
    """Of the song."""
    outcome: Outcome
    file: str
    """Of the text, below the folder of songs."""

    @property
    @abstractmethod
    def line(self) -> str:
        """What is said of it."""


Row = TypeVar("Row", bound=SongText)


@dataclass(frozen=True)
class Made:
    """What was made of a song."""

    text: str
    """Empty where there is nothing to write."""
    nothing: Outcome
    """What that is called."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of its row."""


@dataclass(frozen=True)
class TextWriter(Generic[Row]):
    """Writes texts of one kind, KEY_kind.txt."""

    kind: str
    label: str
    """Of its progress."""
    row: Callable[..., Row]
    make: Callable[[SongFiles], Made]
    """Raises UserError for a song that cannot be read."""
    unread: str
    """The field of a row that says why."""
    overwrite: bool = False
    dry_run: bool = False

    def write(self, raw: Path) -> list[Row]:
        """Write the texts that are missing below `raw`, all of them with `overwrite`, none with `dry_run`.

        A song that cannot be read is a row, and loses no other. Raises UserError where there are no songs, and where
        the disk refuses a text.
        """
        songs, rows = scan(raw).songs, list[Row]()
        with progress(len(songs), self.label, "songs") as done:
            for song in songs:
                rows.append(self._one(song, raw))
                done.update(note=song.key)
        return rows

    def _one(self, song: SongFiles, raw: Path) -> Row:
        path = song.texts.get(self.kind) or beside(song, f"{self.kind}.txt")
        place = {"key": song.key, "file": path.relative_to(raw).as_posix()}
        if path.exists() and not self.overwrite:
            return self.row(**place, outcome="has one")
        try:
            made = self.make(song)
        except UserError as error:
            return self.row(**place, outcome="unreadable", **{self.unread: str(error)})
        if not made.text:
            return self.row(**place, outcome=made.nothing, **made.notes)
        if path.exists() and path.read_bytes() == made.text.encode():
            return self.row(**place, outcome="as it was", **made.notes)
        if not self.dry_run:
            with whole_file(path) as partial:
                partial.write_text(made.text, encoding="utf-8", newline="\n")
        return self.row(**place, outcome="to write" if self.dry_run else "written", **made.notes)


def beside(song: SongFiles, ending: str) -> Path:
    """KEY_ending, where a song lies."""
    assert song.beside is not None, "a scanned song has a place"
    return song.beside.with_name(f"{song.beside.name}_{ending}")


def described(rows: Sequence[SongText], texts: str) -> str:
    """A line for each song that was measured, and one that counts all; `texts` is what they are called."""
    lines = [f"{row.key}: {row.line}" for row in rows if row.outcome not in QUIET]
    counts = Counter(row.outcome for row in rows)
    total = ", ".join(f"{counts[one]} {said.format(texts=texts)}" for one, said in SAID.items() if counts[one])
    return "\n".join([*lines, total])


def as_plain(rows: Sequence[SongText]) -> list[dict[str, Any]]:
    """The same as plain JSON values, with all that was measured."""
    return [asdict(row) for row in rows]

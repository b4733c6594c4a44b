"""KEY_lead_sheet.txt for the songs of a folder that have none: measured on the band, written; what is there stays."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.files import whole_file
from common.music.edits import with_chords_of
from common.music.lead_sheet import LeadSheet, lead_sheet_of_spans
from common.music.notation import read_lab, write_lead_sheet
from common.progress import progress
from common.texts.text import read_text
from models.harmony.band import RATE_HZ, lead_sheet_of_band
from prep.captions.waves import band_of
from prep.sources.scan import SongFiles, scan

Outcome = Literal["written", "to write", "has one", "silent", "unreadable"]
SAID: dict[Outcome, str] = {
    "written": "lead sheets written",
    "to write": "lead sheets to write",
    "has one": "songs that have one",
    "silent": "of which nothing is heard",
    "unreadable": "that cannot be read",
}


@dataclass(frozen=True)
class MeasuredSheet:
    """A song's lead sheet, or why it gets none."""

    key: str
    """Of the song."""
    outcome: Outcome
    file: str
    """Of the sheet."""
    text: str = ""
    summary: str = ""
    """Key, tempo and length; or why the song cannot be read."""


def measure_lead_sheets(raw: Path, *, overwrite: bool = False, dry_run: bool = False) -> list[MeasuredSheet]:
    """Write the lead sheets that are missing below `raw`, all of them with `overwrite`, none with `dry_run`.

    Chords that KEY_chords.lab tells beside a song are taken for those that are played.
    A song that cannot be read is a row, and loses no other. Raises UserError where there are no songs, and where the
    disk refuses a sheet.
    """
    songs = scan(raw).songs
    found = []
    with progress(len(songs), "lead sheets", "songs") as done:
        for song in songs:
            found.append(_measured(song, raw, overwrite=overwrite, dry_run=dry_run))
            done.update(note=song.key)
    return found


def _measured(song: SongFiles, raw: Path, *, overwrite: bool, dry_run: bool) -> MeasuredSheet:
    path = lead_sheet_file(song)
    file = path.relative_to(raw).as_posix()
    if path.exists() and not overwrite:
        return MeasuredSheet(song.key, "has one", file)
    try:
        sheet = _with_given_chords(lead_sheet_of_band(band_of(song, RATE_HZ), RATE_HZ), song)
    except UserError as error:
        return MeasuredSheet(song.key, "unreadable", file, summary=str(error))
    if not sheet.bars:
        return MeasuredSheet(song.key, "silent", file, summary="nothing is heard that has beats")
    text = write_lead_sheet(sheet)
    if not dry_run:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    return MeasuredSheet(song.key, "to write" if dry_run else "written", file, text, _summary(sheet))


def _with_given_chords(sheet: LeadSheet, song: SongFiles) -> LeadSheet:
    """The beats that were measured with the chords of KEY_chords.lab, where that lies beside a song.

    Raises UserError for one that cannot be read.
    """
    path = _beside(song, "chords.lab")
    text = read_text(path)
    if text is None:
        return sheet
    return with_chords_of(sheet, lead_sheet_of_spans(list(read_lab(text.content, str(path)))))


def lead_sheet_file(song: SongFiles) -> Path:
    """Where a song's lead sheet is, or belongs: beside it."""
    return song.texts.get("lead_sheet") or _beside(song, "lead_sheet.txt")


def _beside(song: SongFiles, ending: str) -> Path:
    assert song.beside is not None, "a scanned song has a place"
    return song.beside.with_name(f"{song.beside.name}_{ending}")


def _summary(sheet: LeadSheet) -> str:
    key = "no key" if sheet.key is None else sheet.key.name
    return f"{key}, {sheet.bpm:.0f} bpm, {len(sheet.bars)} bars"


def described(found: Sequence[MeasuredSheet]) -> str:
    """A line for each song that was measured, and one that counts all."""
    lines = [f"{one.key}: {one.summary}" for one in found if one.outcome != "has one"]
    counts = Counter(one.outcome for one in found)
    total = ", ".join(f"{counts[outcome]} {said}" for outcome, said in SAID.items() if counts[outcome])
    return "\n".join([*lines, total])


def rows(found: Sequence[MeasuredSheet]) -> list[dict[str, Any]]:
    """The same as plain JSON values, with the text of each sheet."""
    return [asdict(one) for one in found]

"""The lead sheet of a session: what the voice tells, as a person changes it, and as the page shows it."""

from typing import Annotated, Any

from pydantic import Field

from common.config import Config
from common.errors import UserError
from common.music.chord import Key
from common.music.edits import at_downbeat, at_tempo, with_bar
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet, write_chords, write_lead_sheet

LONGEST_TEXT = 40_000


class BarEdit(Config):
    """Other chords in one bar."""

    number: Annotated[int, Field(ge=0)]
    """From 0."""
    chords: Annotated[str, Field(max_length=200)]
    """As between two | of a sheet."""


class SheetEdit(Config):
    """What a person changes; what is null stays."""

    text: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    """All of it, as a file has it."""
    key: Annotated[str, Field(max_length=40)] | None = None
    """As in "A minor"; empty for none."""
    tempo: float | None = None
    """Beats a minute; chords stay where they are in time."""
    downbeat: float | None = None
    """Second at which a bar begins; chords stay where they are in time."""
    bar: BarEdit | None = None


def edited(sheet: LeadSheet, edit: SheetEdit, seconds: float) -> LeadSheet:
    """The sheet of so many seconds of voice, changed. Raises UserError for what cannot be read, or is out of range."""
    if edit.text is not None:
        sheet = read_lead_sheet(edit.text)
    if edit.key is not None:
        sheet = sheet.model_copy(update={"key": Key.of_name(edit.key) if edit.key else None})
    if edit.tempo is not None:
        sheet = at_tempo(sheet, edit.tempo, seconds)
    if edit.downbeat is not None:
        sheet = at_downbeat(sheet, edit.downbeat, seconds)
    if edit.bar is not None:
        sheet = with_bar(sheet, edit.bar.number, edit.bar.chords)
    if sheet.key is None and not sheet.bars:
        raise UserError('lead sheet: it says nothing. Write bars such as "| C | Am7 | F G | C |" below "bpm: 112".')
    return sheet


def sheet_view(sheet: LeadSheet) -> dict[str, Any]:
    """What a page is told of it, as JSON; times are seconds, sureness is 0 to 1."""
    starts = [round(float(start), 3) for start in sheet.starts]
    return {
        "text": write_lead_sheet(sheet),
        "key": None if sheet.key is None else sheet.key.name,
        "key_sure": None if sheet.key is None else sheet.key.confidence,
        "tempo": sheet.bpm,
        "tempo_sure": min((bar.confidence for bar in sheet.bars), default=None),
        "downbeat": next((start for start in starts[:-1] if start >= 0), None),
        "bars": [
            {
                "start": start,
                "end": end,
                "beats": bar.beats,
                "chords": write_chords(bar, sheet.key),
                "sure": min(one.confidence for one in bar.chords),
            }
            for start, end, bar in zip(starts, starts[1:], sheet.bars, strict=False)
        ],
    }

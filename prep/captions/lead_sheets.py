"""KEY_lead_sheet.txt for the songs of a folder that have none, measured on the band."""

from dataclasses import dataclass
from pathlib import Path

from common.music.edits import with_chords_of
from common.music.lead_sheet import LeadSheet, lead_sheet_of_spans
from common.music.notation import read_lab, write_lead_sheet
from common.texts.text import read_text
from models.harmony.band import RATE_HZ, lead_sheet_of_band
from prep.captions.beside import Made, SongText, TextWriter, beside
from prep.captions.waves import waves_of
from prep.sources.scan import SongFiles


@dataclass(frozen=True)
class MeasuredSheet(SongText):
    """A song's lead sheet, or why it gets none."""

    text: str = ""
    summary: str = ""
    """Key, tempo and length; or why the song cannot be read."""

    @property
    def line(self) -> str:
        """The summary."""
        return self.summary


def measure_lead_sheets(raw: Path, *, overwrite: bool = False, dry_run: bool = False) -> list[MeasuredSheet]:
    """Write the lead sheets that are missing below `raw`, as TextWriter.write does.

    Chords that KEY_chords.lab tells beside a song are taken for those that are played.
    """
    writer = TextWriter("lead_sheet", "lead sheets", MeasuredSheet, _made, "summary", overwrite, dry_run)
    return writer.write(raw)


def _made(song: SongFiles) -> Made:
    sheet = _with_given_chords(lead_sheet_of_band(waves_of(song, RATE_HZ).band, RATE_HZ), song)
    if not sheet.bars:
        return Made("", "silent", {"summary": "nothing is heard that has beats"})
    text = write_lead_sheet(sheet)
    return Made(text, "silent", {"text": text, "summary": _summary(sheet)})


def _with_given_chords(sheet: LeadSheet, song: SongFiles) -> LeadSheet:
    """The beats that were measured with the chords of KEY_chords.lab, where that lies beside a song.

    Raises UserError for one that cannot be read.
    """
    path = beside(song, "chords.lab")
    text = read_text(path)
    if text is None:
        return sheet
    return with_chords_of(sheet, lead_sheet_of_spans(list(read_lab(text.content, str(path)))))


def _summary(sheet: LeadSheet) -> str:
    key = "no key" if sheet.key is None else sheet.key.name
    return f"{key}, {sheet.bpm:.0f} bpm, {len(sheet.bars)} bars"

"""The lead sheet that a band follows beside the vocal: a file, the one beside the vocal, or that of the shards."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from common.errors import UserError
from common.music.chord import Key
from common.music.edits import at_tempo, with_chords
from common.music.lead_sheet import LeadSheet, join_lead_sheets, lead_sheet_of_spans
from common.music.notation import read_lab, read_lead_sheet
from common.progress import say
from common.texts.naming import song_of_vocal, text_beside
from infer.request.request import AdapterSelection, GenerationRequest
from infer.request.text_inputs import read_text_file
from shards.schema import Sample


def lead_sheet_of_file(request: GenerationRequest, selection: AdapterSelection, vocal: Path) -> LeadSheet | None:
    """The sheet for a vocal in a file: as asked for, else KEY_lead_sheet.txt beside the vocal, where prep looks too.

    Raises UserError for one that cannot be read.
    """
    path = request.lead_sheet or text_beside(vocal, song_of_vocal(vocal), "lead_sheet")
    if not selection.takes_lead_sheet:
        if path is not None:
            which = selection.folders[0] if selection.folders else "the base model alone"
            say(f"{path}: not used, {which} takes no lead sheet.")
        return None
    return None if path is None else read_sheet(path)


def lead_sheet_of_shards(
    request: GenerationRequest, selection: AdapterSelection, segments: Sequence[Sample]
) -> LeadSheet | None:
    """The sheet for a song of shards: as asked for, else what the shards hold. Raises UserError for a bad file."""
    if not selection.takes_lead_sheet:
        return None
    if request.lead_sheet is not None:
        return read_sheet(request.lead_sheet)
    starts = accumulate((segment.meta.seconds for segment in segments), initial=0.0)
    parts = [
        (start, one.lead_sheet) for start, one in zip(starts, segments, strict=False) if one.lead_sheet is not None
    ]
    return join_lead_sheets(parts) if parts else None


def read_sheet(path: Path) -> LeadSheet:
    """The lead sheet in a file, as text or, by its ending, as .lab: chords without beats.

    Raises UserError where there is none, or it cannot be read.
    """
    text = read_text_file(path)
    if path.suffix.lower() == ".lab":
        return lead_sheet_of_spans(list(read_lab(text, str(path))))
    sheet = read_lead_sheet(text, str(path))
    if sheet.key is None and not sheet.bars:
        raise UserError(f'{path}: says nothing. Write bars such as "| C | Am7 | F G | C |" and a line "bpm: 112".')
    return sheet


def changed_sheet(sheet: LeadSheet | None, request: GenerationRequest, seconds: float) -> LeadSheet | None:
    """The sheet for so many seconds of vocal with the key, the tempo and the chords that are asked for.

    Raises UserError for a key, a tempo or chords that are none, or do not go with the sheet.
    """
    if request.musical_key is not None:
        sheet = (sheet or LeadSheet()).model_copy(update={"key": Key.of_name(request.musical_key)})
    if request.tempo is not None:
        sheet = at_tempo(sheet or LeadSheet(), request.tempo, seconds)
    if request.chords is not None:
        sheet = with_chords(sheet or LeadSheet(), request.chords, seconds)
    return sheet


def say_uncovered(sheet: LeadSheet | None, seconds: float) -> None:
    """Say so where there is no sheet, or it lacks a bar or more at either end of a vocal of so many seconds."""
    if sheet is None:
        say("no lead sheet: the band follows the vocal alone. --lead-sheet FILE gives it tempo, key and chords.")
    elif not sheet.bars:
        say("the lead sheet has no bars: the band follows its key and the vocal.")
    else:
        start, end = float(sheet.starts[0]), float(sheet.starts[-1])
        if start > sheet.bars[0].seconds or end < seconds - sheet.bars[-1].seconds:
            say(
                f"the lead sheet has bars from {max(start, 0.0):.1f} to {max(end, 0.0):.1f} s of {seconds:.1f} s: "
                "elsewhere the band follows the vocal alone."
            )

"""A lead sheet inferred from a vocal."""

from pathlib import Path

from common.audio.disk_wave import DiskWave
from common.audio.wave import Audio, read_audio
from common.canonical import unicode_text
from common.errors import UserError
from common.files import whole_file
from common.music.lead_sheet import LeadSheet
from common.music.notation import write_lab, write_lead_sheet
from common.progress import say
from infer.request.record import HarmoniserRecord
from models.harmony.network import harmony_network_hash
from models.harmony.trained import SHIPPED_HARMONISER, open_harmoniser


def infer_lead_sheet(vocal: Path, harmoniser: Path = SHIPPED_HARMONISER, *, draw: int | None = None) -> LeadSheet:
    """Tempo, beats, key and chords for a vocal: the likeliest, or key and chords as they are drawn by a seed.

    Raises UserError for a file that cannot be read, or in which nobody sings, and for a folder without a harmoniser.
    """
    audio = read_audio(vocal)
    sheet = sung_lead_sheet(audio, harmoniser, draw=draw)
    if sheet is None:
        raise UserError(f"{vocal}: no pitch is sung in its {audio.seconds:.1f} s. Give a vocal alone, without a band.")
    return sheet


def sung_lead_sheet(audio: Audio, harmoniser: Path, *, draw: int | None = None) -> LeadSheet | None:
    """The same of a vocal that is read; None where nothing is sung that has beats."""
    temperature = 0.0 if draw is None else 1.0
    infer = open_harmoniser(harmoniser).lead_sheet
    sheet = infer(audio.samples, audio.rate_hz, temperature=temperature, seed=draw or 0)
    return sheet if sheet.bars else None


def sheet_of_wave(vocal: DiskWave, harmoniser: Path) -> LeadSheet | None:
    """The same of a vocal that is read, and say what it is; None where nothing is sung that has beats."""
    sheet = open_harmoniser(harmoniser).lead_sheet(vocal.read(0, vocal.samples), vocal.rate_hz)
    if not sheet.bars:
        return None
    key = "no key" if sheet.key is None else sheet.key.name
    by = "" if harmoniser == SHIPPED_HARMONISER else f" by {harmoniser}"
    say(
        f"lead sheet inferred from the vocal{by}: {key}, {sheet.bpm:.0f} bpm, {len(sheet.bars)} bars. It lies beside "
        "the result, to be edited and given back with --lead-sheet."
    )
    return sheet


def harmoniser_record(harmoniser: Path) -> HarmoniserRecord:
    """What a record says of a harmoniser."""
    return HarmoniserRecord(folder=unicode_text(harmoniser.as_posix()), sha256=harmony_network_hash(harmoniser))


def save_lead_sheet(sheet: LeadSheet, path: Path) -> None:
    """Write a sheet to a file, by its ending as .lab. Raises UserError where the disk refuses."""
    with whole_file(path) as partial:
        write = write_lab if path.suffix.lower() == ".lab" else write_lead_sheet
        partial.write_text(write(sheet), encoding="utf-8", newline="\n")

"""`infer lead-sheet` from a file to the sheet it prints or writes."""

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.command import run
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lab, read_lead_sheet, write_lead_sheet
from infer.cli import app
from infer.request.harmonise import infer_lead_sheet, save_lead_sheet


def outcome(capsys, *arguments):
    """Exit code, stdout and stderr of `infer lead-sheet ...`."""
    with pytest.raises(SystemExit) as stopped:
        run(app, ["lead-sheet", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_what_is_printed_is_the_sheet_of_the_vocal(capsys, vocal_file):
    code, out, err = outcome(capsys, vocal_file)
    assert (code, err) == (0, "")
    sheet = infer_lead_sheet(vocal_file)
    assert read_lead_sheet(out) == sheet
    assert all(one.chord is not None and 9 in one.chord.notes for one in sheet.chord_segments())  # an A is sung


def test_drawn_chords_are_the_seeds_own_on_the_same_beats(capsys, vocal_file):
    drawn = [outcome(capsys, vocal_file, "--draw", seed)[1] for seed in (0, *range(12))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert {read_lead_sheet(sheet).bpm for sheet in drawn} == {infer_lead_sheet(vocal_file).bpm}


def test_out_takes_text_or_lab(capsys, vocal_file, tmp_path):
    text, lab = tmp_path / "ballad_lead_sheet.txt", tmp_path / "ballad_chords.lab"
    assert outcome(capsys, vocal_file, "--out", text) == (0, f"{text}\n", "")
    assert outcome(capsys, vocal_file, "--out", lab) == (0, f"{lab}\n", "")
    sheet = read_lead_sheet(text.read_text(encoding="utf-8"))
    assert sheet == infer_lead_sheet(vocal_file)
    spans = list(read_lab(lab.read_text(encoding="utf-8")))
    assert spans[-1][1] == pytest.approx(sheet.starts[-1], abs=1e-3)


def test_no_recording_is_written_over(capsys, vocal_file, tmp_path):
    before = vocal_file.read_bytes()
    unnamed = tmp_path / "vocal"
    unnamed.write_bytes(before)
    for vocal, path in ((vocal_file, vocal_file), (unnamed, unnamed), (vocal_file, tmp_path / "other.mp3")):
        code, out, err = outcome(capsys, vocal, "--out", path)
        assert (code, out) == (2, "")
        line = f"--out {path}: that is a recording, and a lead sheet is text. Name a file such as ballad.txt."
        assert line in err
        assert vocal.read_bytes() == before


def test_silence_is_the_users_error(capsys, tmp_path):
    path = tmp_path / "silence.wav"
    write_audio(path, np.zeros((2, 48_000), np.float32), 48_000)
    code, out, err = outcome(capsys, path)
    assert (code, out) == (2, "")
    assert f"{path}: no pitch is sung in its 1.0 s. Give a vocal alone, without a band." in err


def test_a_disk_that_refuses_leaves_no_half_of_a_sheet(tmp_path, each_refusal):
    path = tmp_path / "ballad_lead_sheet.txt"

    def before() -> None:
        path.write_bytes(b"| C |")

    messages, whole = 0, write_lead_sheet(LeadSheet()).encode()
    for message in each_refusal(lambda: save_lead_sheet(LeadSheet(), path), before):
        messages += 1
        assert str(tmp_path) in message
        assert path.read_bytes() in (b"| C |", whole)
    assert messages > 1

"""The lead sheet of a session: inferred as a recording comes in, edited by the parser of files, kept as a file."""

from dataclasses import dataclass
from typing import Any

import pytest

from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet


@dataclass(frozen=True)
class Edited:
    """A session whose sheet is edited."""

    studio: Any
    session: str

    def change(self, **edit: Any) -> Any:
        return self.studio.ask("POST", f"/api/sessions/{self.session}/lead_sheet", edit)

    @property
    def view(self) -> Any:
        return self.studio.ask("GET", f"/api/sessions/{self.session}").said["sheet"]

    @property
    def sheet(self) -> LeadSheet:
        """In its file."""
        path = self.studio.folder / self.session / "voice_lead_sheet.txt"
        return read_lead_sheet(path.read_text(encoding="utf-8"))


@pytest.fixture
def sung(studio, sung_file):
    return Edited(studio, studio.bring(sung_file))


def test_it_is_there_as_soon_as_the_recording_is(sung):
    view, sheet = sung.view, sung.sheet
    assert (view["key"], view["tempo"]) == ("A minor", pytest.approx(120, rel=0.04))
    assert 0 < view["key_sure"] <= 1
    assert [bar["start"] for bar in view["bars"]] == pytest.approx(sheet.downbeat_times().tolist(), abs=1e-3)
    assert read_lead_sheet(view["text"]) == sheet


def test_edits_are_kept_and_shown(sung):
    before = sung.sheet
    doubled = sung.change(tempo=2 * before.bpm).said
    assert (doubled["tempo"], doubled["tempo_sure"]) == (pytest.approx(2 * before.bpm, abs=1e-3), 1)
    moved = sung.change(downbeat=0.4).said
    assert moved["bars"][0]["start"] <= 0
    assert min(abs(bar["start"] - 0.4) for bar in moved["bars"]) < 0.002
    chords = sung.change(bar={"number": 1, "chords": "F . Dm7/A ."}).said
    assert (chords["bars"][1]["chords"], chords["bars"][1]["sure"]) == ("F Dm7/A", 1)
    assert sung.change(key="Eb major").said["key"] == "Eb major"
    assert sung.change(key="").said["key"] is None
    written = sung.change(text="key: G major\nbpm: 90\n| G | % | C D |").said
    assert [bar["chords"] for bar in written["bars"]] == ["G", "G", "C D"]
    assert sung.view == written


def test_what_cannot_be_read_is_one_line_and_changes_nothing(sung):
    before = sung.view
    for edit, error in (
        ({"tempo": 500}, "a tempo of 500 bpm is outside 20 to 400."),
        ({"downbeat": -1}, "a downbeat at -1 s is outside 0 to 2.40 s."),
        ({"bar": {"number": 99, "chords": "C"}}, f"bar 100: there are {len(before['bars'])} bars."),
        (
            {"bar": {"number": 0, "chords": "C | F"}},
            'bar 1: \'C | F\' is not one bar of 4 beats. Write "Am" or "F . . G".',
        ),
        ({"key": "H moll"}, '\'H moll\' is no key. Write it as "A minor" or "Eb major".'),
        ({"text": "hello"}, "lead sheet, line 1: 'hello' is neither bars between | nor one of key, time, bpm, offset."),
        (
            {"text": "# nothing"},
            'lead sheet: it says nothing. Write bars such as "| C | Am7 | F G | C |" below "bpm: 112".',
        ),
    ):
        answer = sung.change(**edit)
        assert (answer.status, answer.error) == (400, error)
        assert sung.view == before

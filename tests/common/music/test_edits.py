"""A lead sheet changed by hand: what stays where it was, and how far it reaches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.music.chord import Chord
from common.music.edits import at_downbeat, at_tempo, with_bar, with_chords, with_chords_of
from common.music.lead_sheet import LeadSheet, lead_sheet_of_spans
from common.music.notation import read_lead_sheet

SHEET = read_lead_sheet("key: C major\nbpm: 120\noffset: -0.5\n| C | Am F | G7/B . . C | N.C. |\n")


@st.composite
def sheets(draw) -> LeadSheet:
    bars = draw(st.lists(st.sampled_from(["C", "4/4 Am . F .", "@71.5 G", "N.C.~30", "3/4 Dm", "4/4 E7"]), max_size=6))
    return read_lead_sheet(f"key: Am\noffset: {draw(st.floats(-9, 9)):.3f}\nbpm: 93.7\n{'|'.join(['', *bars, ''])}")


@given(sheets(), st.floats(20, 400), st.floats(0, 30))
@settings(deadline=None, max_examples=30)
def test_another_tempo_has_even_beats_to_the_end_and_the_key_as_it_was(sheet, bpm, seconds):
    changed = at_tempo(sheet, bpm, seconds)
    assert (changed.key, changed.offset) == (sheet.key, sheet.offset)
    assert {bar.bpm for bar in changed.bars} == {round(bpm, 3)}
    assert changed.starts[-1] >= seconds - 0.01
    assert changed.starts[-2] < max(seconds, sheet.offset + 0.01)


def test_at_twice_the_tempo_each_chord_sounds_when_it_did():
    changed = at_tempo(SHEET, 240, 7.5)
    assert changed.bpm == 240
    assert changed.starts[-1] == SHEET.starts[-1]
    for one in SHEET.chord_segments():
        under = [other.chord for other in changed.chord_segments() if one.start <= other.start < one.end]
        assert set(under) == {one.chord}
    assert at_tempo(changed, 120, 7.5) == SHEET


def test_a_tempo_alone_knows_beats_and_no_chord():
    sheet = at_tempo(LeadSheet(), 100, 5.0)
    assert len(sheet.bars) == 3
    assert {(one.chord, one.confidence) for bar in sheet.bars for one in bar.chords} == {(None, 0.0)}
    assert {bar.confidence for bar in sheet.bars} == {1.0}


@given(sheets().filter(lambda sheet: sheet.bars), st.floats(0, 20), st.floats(20, 30))
@settings(deadline=None, max_examples=30)
def test_a_bar_begins_at_the_downbeat_and_all_of_the_sound_has_bars(sheet, downbeat, seconds):
    changed = at_downbeat(sheet, downbeat, seconds)
    assert min(abs(changed.downbeat_times() - downbeat)) < 0.02
    assert changed.starts[0] <= 0
    assert changed.starts[1] > -0.01
    assert changed.starts[-1] >= seconds - 0.02
    assert changed.key == sheet.key


def test_a_downbeat_moves_no_chord():
    moved = at_downbeat(SHEET, 0.5, 7.5)
    assert moved.downbeat_times().tolist() == [-1.5, 0.5, 2.5, 4.5, 6.5]

    def chord_at(sheet, time):
        return next(one.chord for one in sheet.chord_segments() if one.start <= time < one.end)

    for half_beat in range(31):
        time = -0.5 + half_beat / 4
        assert chord_at(moved, time) == chord_at(SHEET, time)


def test_a_bar_gets_other_chords_and_keeps_its_beats():
    changed = with_bar(SHEET, 2, "F . . Dm7")
    assert changed.bars[2].bpm == SHEET.bars[2].bpm
    assert [one.beat for one in changed.bars[2].chords] == [0, 3]
    assert (*changed.bars[:2], *changed.bars[3:]) == (*SHEET.bars[:2], *SHEET.bars[3:])
    for number, chords, error in (
        (9, "C", "bar 10: there are 4 bars."),
        (0, "@90 C", 'bar 1: \'@90 C\' is not one bar of 4 beats. Write "Am" or "F . . G".'),
        (0, "", 'bar 1: \'\' is not one bar of 4 beats. Write "Am" or "F . . G".'),
    ):
        with pytest.raises(UserError) as refused:
            with_bar(SHEET, number, chords)
        assert str(refused.value) == error


def test_chords_go_round_until_the_sound_ends():
    sheet = with_chords(SHEET, "| Dm | G7 . C . | Am |", 12.0)
    assert sheet.starts.tolist() == [-0.5, 1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5]
    wanted = read_lead_sheet("bpm: 120\noffset: -0.5\n| Dm | G7 C | Am | Dm | G7 C | Am | Dm |").bars
    assert [bar.chords for bar in sheet.bars] == [bar.chords for bar in wanted]
    assert with_chords(SHEET, "| Dm |", 0.0).starts.tolist() == SHEET.starts.tolist()


def test_chords_of_another_sheet_are_laid_on_its_beats():
    chords = lead_sheet_of_spans([(0.0, 2.6, Chord.of_name("F")), (2.6, 3.9, Chord.of_name("Dm"))])
    laid = with_chords_of(SHEET, chords)
    assert (laid.key, laid.starts.tolist()) == (SHEET.key, SHEET.starts.tolist())
    named = [(one.start, one.end, one.chord and one.chord.harte) for one in laid.chord_segments()]
    assert named == [
        (-0.5, 0.0, None),
        (0.0, 1.5, "F:maj"),
        (1.5, 2.5, "F:maj"),
        (2.5, 3.5, "D:min"),
        (3.5, 4.0, "D:min"),
        (4.0, 5.5, None),
        (5.5, 7.5, None),
    ]
    assert with_chords_of(SHEET, SHEET) == SHEET


@pytest.mark.parametrize(
    ("sheet", "chords", "message"),
    [
        (LeadSheet(), "| C |", "no tempo is known for them"),
        (SHEET, "C", "is neither bars between"),
        (SHEET, "", "are no bars"),
        (SHEET, "| C | @90 G |", "change tempo or time"),
        (SHEET, "| C | 3/4 G |", "change tempo or time"),
        (SHEET, "| C H |", "'H'"),
        (read_lead_sheet("bpm: 90\n| C | 3/4 G |"), "| C |", r"bars of \[3, 4\] beats"),
    ],
)
def test_chords_that_do_not_go_are_refused(sheet, chords, message):
    with pytest.raises(UserError, match=message):
        with_chords(sheet, chords, 10.0)


@pytest.mark.parametrize("bpm", [19.9, 401, float("nan")])
def test_a_tempo_out_of_range_is_refused(bpm):
    with pytest.raises(UserError, match="is outside 20 to 400"):
        at_tempo(SHEET, bpm, 10.0)

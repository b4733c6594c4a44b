"""Lead sheets as text and back."""

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.music.chord import MODES, QUALITIES, Chord, Key
from common.music.lead_sheet import BeatChord, LeadSheet, SheetBar
from common.music.notation import read_lab, read_lead_sheet, write_lab, write_lead_sheet

SURE = st.floats(0, 1)
PITCHES = st.integers(0, 11)
CHORDS = st.builds(Chord, root=PITCHES, quality=st.sampled_from(sorted(QUALITIES)), bass=PITCHES)
KEYS = st.builds(Key, tonic=PITCHES, mode=st.sampled_from(MODES), confidence=SURE)


@st.composite
def bars(draw) -> SheetBar:
    beats = draw(st.integers(1, 7))
    starts = sorted({0, *draw(st.lists(st.integers(0, beats - 1), max_size=4))})
    chords = [BeatChord(beat=beat, chord=draw(st.none() | CHORDS), confidence=draw(SURE)) for beat in starts]
    return SheetBar(bpm=draw(st.floats(20, 400)), beats=beats, confidence=draw(SURE), chords=tuple(chords))


SHEETS = st.builds(
    LeadSheet, offset=st.floats(-100, 100), key=st.none() | KEYS, bars=st.lists(bars(), max_size=9).map(tuple)
)


@given(SHEETS)
@settings(deadline=None)
def test_what_is_written_is_read_as_it_was(sheet):
    assert read_lead_sheet(write_lead_sheet(sheet)) == sheet


@given(SHEETS, st.integers(-12, 12))
@settings(deadline=None)
def test_a_shift_and_its_way_back_change_nothing(sheet, semitones):
    assert sheet.shifted(semitones).shifted(-semitones) == sheet


@given(CHORDS)
def test_a_label_is_read_as_it_was(chord):
    assert Chord.of_harte(chord.harte) == chord


def test_a_sheet_reads_as_musicians_write_it():
    sheet = read_lead_sheet(
        "# a waltz that turns\nkey: F major ~92\ntime: 3/4\nbpm: 150\noffset: 0.5\n"
        "| F | Bb/D . C7 | % |\n| 4/4 @100~80 Dm~62 N.C. |\n"
    )
    assert sheet.key == Key(tonic=5, mode="major", confidence=0.92)
    assert [bar.beats for bar in sheet.bars] == [3, 3, 3, 4]
    assert [bar.bpm for bar in sheet.bars] == [150, 150, 150, 100]
    assert sheet.bars[2].chords == sheet.bars[1].chords
    assert sheet.bars[3].confidence == 0.8
    assert sheet.starts.tolist() == pytest.approx([0.5, 1.7, 2.9, 4.1, 6.5])
    assert [(one.chord and one.chord.name(), round(one.start, 3)) for one in sheet.chord_segments()] == [
        ("F", 0.5),
        ("Bb/D", 1.7),
        ("C7", 2.5),
        ("Bb/D", 2.9),
        ("C7", 3.7),
        ("Dm", 4.1),
        (None, 5.3),
    ]
    assert write_lead_sheet(sheet) == (
        "key: F major ~92\ntime: 3/4\nbpm: 150\noffset: 0.5\n| F | Bb/D . C7 | Bb/D . C7 | 4/4 @100~80 Dm~62 N.C. |\n"
    )


def test_a_lab_file_holds_the_chords():
    sheet = read_lead_sheet("bpm: 120\n| Am | Am . . G/B | N.C. |\n")
    text = write_lab(sheet)
    assert text == "0.000\t3.500\tA:min\n3.500\t4.000\tG:maj/3\n4.000\t6.000\tN\n"
    assert [(start, end, chord and chord.name()) for start, end, chord in read_lab(text)] == [
        (0.0, 3.5, "Am"),
        (3.5, 4.0, "G/B"),
        (4.0, 6.0, None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "| C |",
            'lead sheet, line 1: no tempo stands before the first bar. Write a line such as "bpm: 112" above it.',
        ),
        ("bpm: 0", "lead sheet, line 1: bpm 0 is outside 20 to 400."),
        ("bpm: fast", "lead sheet, line 1: bpm 'fast' is no number."),
        ("bpm: nan", "lead sheet, line 1: bpm nan is outside 20 to 400."),
        ("time: 4/3", "lead sheet, line 1: time '4/3' is none of 1/4 to 16/4 (in n/8 a beat is an eighth)."),
        ("tempo: 3", "lead sheet, line 1: 'tempo: 3' is neither bars between | nor one of key, time, bpm, offset."),
        (
            "bpm: 99\n| C F G |",
            "lead sheet, line 2: 3 chords do not part a bar of 4 beats evenly. Write one name a beat, "
            'with "." where the chord before goes on.',
        ),
        ("bpm: 99\n| . C |", "lead sheet, line 2: a bar begins with a chord or N.C., not with ."),
        ("bpm: 99\n| % |", "lead sheet, line 2: a bar begins with a chord or N.C., not with %"),
        (
            "bpm: 99\n| C . . G |\n| 2/4 % |",
            "lead sheet, line 3: % repeats a bar that is longer than 2 beats.",
        ),
        ("bpm: 99\n| Am~400 |", "lead sheet, line 2: ~400 is above 100: it says how sure 'Am' is, in per cent."),
        (
            "key: C major\nbpm: 99\n| C |\nKey: A minor",
            "lead sheet, line 4: a second key; a sheet has one. Take one out.",
        ),
        ("offset: 0\noffset: 1", "lead sheet, line 2: a second offset; a sheet has one. Take one out."),
        ("key: H minor", 'lead sheet, line 1: \'H minor\' is no key. Write it as "A minor" or "Eb major".'),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_lead_sheet(text)


def test_a_wrong_label_is_named_with_its_line():
    with pytest.raises(UserError, match=r"^KEY_chords\.lab, line 2: 'H' is no chord label\."):
        list(read_lab("0 1 C\n1 2 H\n", "KEY_chords.lab"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 C\n2 1 G\n", "chords, line 2: ends at 1 s and starts at 2 s. Mend it."),
        ("1 2 C\n0 1 G\n", "chords, line 2: starts at 0 s, the line above at 1 s. Put lines in order of time."),
    ],
)
def test_lines_that_are_not_in_order_of_time_are_named(text, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        list(read_lab(text))


def test_an_unknown_chord_is_named():
    with pytest.raises(UserError, match=r"^lead sheet, line 2: 'Cfoo' is no chord that is known here\."):
        read_lead_sheet("bpm: 99\n| Cfoo |")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("A-7", "Am7"), ("CΔ", "Cmaj7"), ("Bø", "Bm7b5"), ("D♭", "C#"), ("Gsus", "Gsus4"), ("Cb", "B")],
)
def test_other_spellings_are_read(written, meant):
    assert Chord.of_name(written).name() == meant


@pytest.mark.parametrize(
    ("label", "name"),
    [("F:min(*5,b6)", "Fm"), ("G:13", "G7"), ("D:maj7(13)", "Dmaj7"), ("Eb", "Eb"), ("C:maj/b7", "C/Bb")],
)
def test_labels_that_say_more_are_read_as_far_as_their_triad(label, name):
    chord = Chord.of_harte(label)
    assert chord is not None
    assert chord.name() == name


@given(st.text(alphabet="|CmFG#b7/.%@~4 \nkeybpm:time0", max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(UserError):
        assert read_lead_sheet(text) == read_lead_sheet(write_lead_sheet(read_lead_sheet(text)))


@pytest.mark.parametrize(
    ("tonic", "mode", "name"),
    [(6, "major", "F# major"), (3, "minor", "Eb minor"), (1, "minor", "C# minor"), (8, "major", "Ab major")],
)
def test_a_key_is_spelt_as_its_signature_is(tonic, mode, name):
    assert Key(tonic=tonic, mode=mode).name == name
    assert Key.of_name(name) == Key(tonic=tonic, mode=mode)

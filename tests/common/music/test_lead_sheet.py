"""Times of a lead sheet, its parts, and sheets of tracked beats."""

import numpy as np
import pytest

from common.music.chord import Chord, Key
from common.music.features import BINS, WIDTH, lead_sheet_features, part
from common.music.lead_sheet import LeadSheet, TrackedBeat, join_lead_sheets, lead_sheet_of, lead_sheet_of_spans
from common.music.notation import read_lab, read_lead_sheet, write_lead_sheet

SHEET = read_lead_sheet("key: C major\nbpm: 120\noffset: -0.5\n| C | Am F | G7/B . . C | N.C. |\n")


def test_a_part_of_a_sheet_tells_the_same_times():
    piece = SHEET.cut(2.0, 5.0)
    assert len(piece.bars) == 2
    assert (piece.downbeat_times() + 2.0).tolist() == SHEET.downbeat_times()[[1, 2]].tolist()
    assert SHEET.cut(100.0, 101.0).bars == ()


def test_features_of_a_part_are_that_part_of_the_features():
    rate = 10.0
    whole = lead_sheet_features(SHEET, 80, rate)
    piece = lead_sheet_features(SHEET.cut(2.0, 5.0), 30, rate)
    np.testing.assert_allclose(piece, whole[20:50], atol=1e-5)


def test_features_say_chord_bass_key_and_beats():
    features = lead_sheet_features(SHEET, 80, 10.0)
    assert features.shape == (80, WIDTH)
    chord, bass = features[:, part("chord")], features[:, part("bass")]
    assert np.flatnonzero(chord[0]).tolist() == [0, 4, 7]
    assert np.flatnonzero(chord[37]).tolist() == [2, 5, 7, 11]
    assert np.flatnonzero(bass[37]).tolist() == [11]
    assert chord[60].sum() == 0
    assert features[60, part("confidence")].tolist() == [1.0, 1.0, 1.0]
    assert not features[76:, part("chord")].any()
    assert np.flatnonzero(features[5, part("tonic")]).tolist() == [0]
    assert features[:, part("beat")].sum() == pytest.approx(15, abs=0.5)
    assert features[:, part("downbeat")].sum() == pytest.approx(3)


@pytest.mark.parametrize("seconds", [0.51, 0.5625, 0.7])
def test_a_beat_is_told_where_it_is_inside_its_frame(seconds):
    sheet = read_lead_sheet(f"bpm: 60\ntime: 1/4\noffset: {seconds}\n| C |\n")
    beat = lead_sheet_features(sheet, 20, 10.0)[:, part("beat")].ravel()
    middles = (np.arange(beat.size) + 0.5) / (10.0 * BINS)
    assert beat.sum() == pytest.approx(1)
    assert float(beat @ middles) == pytest.approx(seconds, abs=1e-3)


def test_unsure_is_quiet():
    sheet = read_lead_sheet("key: A minor ~50\nbpm: 60 ~40\n| C~25 | C~25 |\n")
    features = lead_sheet_features(sheet, 4, 1.0)
    assert features[:, part("confidence")] == pytest.approx(np.tile([0.25, 0.5, 0.4], (4, 1)))
    assert features[:, part("chord")].max() == pytest.approx(0.25)
    assert features[1:, part("beat")].sum() == pytest.approx(3 * 0.4)  # each is shared with the frame before


def test_tracked_beats_make_bars_with_one_tempo():
    rng = np.random.default_rng(0)
    times = 0.9 + 0.5 * np.arange(30) + rng.normal(0, 0.005, 30)
    chords = [Chord.on(0), Chord.on(9, "m")]
    beats = [TrackedBeat(float(time), (index + 2) % 4, chords[index // 6 % 2]) for index, time in enumerate(times)]
    sheet = lead_sheet_of(beats, 4, Key(tonic=0, mode="major"))
    assert len({bar.bpm for bar in sheet.bars}) == 1
    assert sheet.bars[0].bpm == pytest.approx(120, abs=0.2)
    found = sheet.beat_times()[2:32]
    assert np.abs(found - times).max() < 0.03
    middle = [one for one in sheet.chord_segments() if one.start < 5.0 < one.end]
    assert middle[0].chord == beats[8].chord


def test_a_tempo_that_moves_is_followed_bar_by_bar():
    times = np.cumsum([0.5] * 16 + [0.4] * 16)
    sheet = lead_sheet_of([TrackedBeat(float(time), index % 4, None) for index, time in enumerate(times)], 4)
    assert [bar.bpm for bar in sheet.bars][:3] == pytest.approx([120, 120, 120])
    assert [bar.bpm for bar in sheet.bars][-2:] == pytest.approx([150, 150])


def test_without_beats_there_are_no_bars():
    assert lead_sheet_of([], 4) == LeadSheet()
    assert not lead_sheet_features(LeadSheet(), 5, 10.0).any()


def test_chords_without_beats_are_where_they_were_and_tell_no_beat():
    text = "0.000\t2.500\tC:maj\n2.500\t2.600\tG:7\n2.600\t45.000\tA:min\n47.000\t48.300\tF:maj/3\n"
    sheet = lead_sheet_of_spans(list(read_lab(text)))
    assert read_lead_sheet(write_lead_sheet(sheet)) == sheet
    for at, name in ((0.1, "C"), (2.4, "C"), (2.7, "Am"), (44.8, "Am"), (47.1, "F/A"), (48.2, "F/A")):
        (found,) = {one.chord for one in sheet.chord_segments() if one.start <= at < one.end}
        assert found == Chord.of_name(name), at
    features = lead_sheet_features(sheet, 500, 10.0)
    assert not features[:, part("beat")].any()
    assert not features[:, part("downbeat")].any()
    assert not features[:, part("tonic")].any()
    assert features[460, part("confidence")].tolist() == [0.0, 0.0, 0.0]  # a gap says nothing
    assert features[470:483, part("chord")].sum(1) == pytest.approx(3.0, abs=0.05)
    assert lead_sheet_of_spans([]) == LeadSheet()


def test_parts_of_a_sheet_join_to_the_sheet():
    joined = join_lead_sheets([(0.0, SHEET.cut(0.0, 2.0)), (2.0, SHEET.cut(2.0, 4.37)), (4.37, SHEET.cut(4.37, 20.0))])
    assert joined == SHEET
    assert join_lead_sheets([(0.0, SHEET)]) == SHEET


def test_where_something_was_cut_out_between_parts_all_other_bars_stay():
    sheet = read_lead_sheet("key: C major\nbpm: 120\n| C | F | G | Am | C |\n")
    joined = join_lead_sheets([(0.0, sheet.cut(0.0, 3.0)), (3.0, sheet.cut(5.0, 10.0))])
    assert joined.key == sheet.key
    chords = [(round(one.start, 2), one.chord and one.chord.name()) for one in joined.chord_segments()]
    assert chords == [(0.0, "C"), (2.0, "F"), (4.0, "Am"), (6.0, "C")]

from itertools import pairwise

import numpy as np

from common.music.chord import Chord, Key
from common.music.lead_sheet import BeatChord, LeadSheet, SheetBar
from train.data.sheet_errors import LATE_SECONDS, WRONG_CHORDS, WRONG_DOWNBEATS, with_errors


def sheet_of(*chords, beats=4):
    bars = tuple(
        SheetBar(bpm=120, beats=beats, chords=(BeatChord(beat=0, chord=Chord.of_name(name), confidence=0.8),))
        for name in chords
    )
    return LeadSheet(offset=0.5, key=Key.of_name("A minor"), bars=bars)


def with_all_errors(sheet, count=600):
    return [with_errors(sheet, np.random.default_rng(seed)) for seed in range(count)]


def test_errors_come_at_their_rates_and_by_their_seed():
    sheet = sheet_of("Am", "F", "C", "G", "Dm7", "E")
    made = with_all_errors(sheet)
    assert made == with_all_errors(sheet)
    turned = [len(one.bars) > len(sheet.bars) for one in made]
    assert abs(np.mean(turned) - WRONG_DOWNBEATS) < 0.04
    straight = [one for one, moved in zip(made, turned, strict=True) if not moved]
    assert abs(np.std([one.offset - sheet.offset for one in straight]) - LATE_SECONDS) < 0.003
    wrong = [
        bar.chords[0].chord != true.chords[0].chord
        for one in straight
        for bar, true in zip(one.bars, sheet.bars, strict=True)
    ]
    assert abs(np.mean(wrong) - WRONG_CHORDS) < 0.03
    assert {(one.key, one.bpm) for one in made} == {(sheet.key, 120.0)}


def test_a_wrong_chord_shares_two_notes_with_the_right_one_and_is_as_sure():
    sheet = sheet_of("Am", "F", "Dm7")
    for one in with_all_errors(sheet, 200):
        if len(one.bars) > len(sheet.bars):
            continue
        for bar, true in zip(one.bars, sheet.bars, strict=True):
            played, meant = bar.chords[0], true.chords[0]
            shared = set(played.chord.notes) & set(meant.chord.notes)
            assert played.chord == meant.chord or len(shared) >= 2
            assert played.confidence == meant.confidence


def test_bars_that_begin_on_another_beat_keep_their_chords_in_time():
    sheet = sheet_of("Am", "Am", "Am", "F", beats=3)
    for one in with_all_errors(sheet, 300):
        if len(one.bars) == len(sheet.bars):
            continue
        apart = np.abs(one.downbeat_times()[:, None] - sheet.starts[None]).min(axis=1)
        assert apart.min() > 0.3  # a beat is half a second, and none is more than some hundredths late
        inside = [part for part in one.chord_segments() if part.confidence]
        assert min(part.start for part in inside) > sheet.offset - 0.2
        assert all(second.start >= first.end - 1e-6 for first, second in pairwise(inside))
        assert one.bars[-1].beats == 3


def test_a_sheet_that_says_nothing_stays():
    assert with_errors(LeadSheet(), np.random.default_rng(0)).bars == ()
    silent = sheet_of("Am").model_copy(update={"bars": (SheetBar(bpm=90, chords=(BeatChord(beat=0, chord=None),)),)})
    for one in with_all_errors(silent, 60):
        assert {chord.chord for bar in one.bars for chord in bar.chords} == {None}

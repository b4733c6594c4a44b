"""Edited lead sheets, and whether a sound follows them: on triads that are played as written, and on others."""

import numpy as np
import pytest

from common.music.chord import Chord, Key
from common.music.lead_sheet import BeatChord, LeadSheet
from common.music.notation import read_lead_sheet
from infer.evaluate.measures.clip import Clip
from recipe.objectives.edits import (
    EDITS,
    another_chord,
    at_times_the_tempo,
    faster,
    has_its_signature,
    has_its_tempo,
    keeps_its_beats,
    third_bar_has_its_chord,
)

SHEET = read_lead_sheet("key: C major\ntime: 4/4\nbpm: 120\n| C | Am | F G | C | F | C |", "sheet")
RATE_HZ = 44_100


def played(sheet: LeadSheet) -> Clip:
    """Each chord as three sines over its time, with a click on every beat."""
    times = np.arange(round(sheet.starts[-1] * RATE_HZ)) / RATE_HZ
    wave = np.zeros_like(times)
    for segment in sheet.chord_segments():
        assert segment.chord is not None
        third = 3 if segment.chord.quality == "m" else 4
        inside = (segment.start <= times) & (times < segment.end)
        for step in (0, third, 7):
            frequency = 261.63 * 2 ** ((segment.chord.root + step) % 12 / 12)
            wave[inside] += 0.1 * np.sin(2 * np.pi * frequency * times[inside])
    noise = np.random.default_rng(0).standard_normal(len(times))
    for beat in sheet.beat_times():
        since = times - beat
        wave += np.where(since >= 0, 0.8 * noise * np.exp(-np.clip(since, 0, None) * 200), 0)
    return Clip(np.stack([wave, wave]).astype(np.float32))


def test_another_chord_is_in_the_third_bar_alone():
    edited = another_chord(SHEET)
    assert [(bar, other) for bar, other in zip(SHEET.bars, edited.bars, strict=True) if bar != other] == [
        (SHEET.bars[2], edited.bars[2])
    ]
    assert edited.bars[2].chords == (BeatChord(beat=0, chord=Chord(root=10, bass=10)),)


def test_another_tempo_keeps_chords_where_they_are_in_time():
    edited = at_times_the_tempo(2, SHEET)
    assert edited.bpm == 240
    assert float(edited.starts[-1]) == pytest.approx(float(SHEET.starts[-1]))
    joined = {(round(segment.start, 3), segment.chord) for segment in edited.chord_segments()}
    assert {(round(segment.start, 3), segment.chord) for segment in SHEET.chord_segments()} <= joined


@pytest.mark.parametrize("name", ["another chord in the third bar", "all a tone higher"])
def test_a_sound_follows_the_sheet_that_it_plays(name):
    edit = EDITS[name]
    edited = edit.edited(SHEET)
    for follows in edit.measures.values():
        assert follows(edited, played(edited)) == 1
        assert follows(edited, played(SHEET)) == 0


def test_no_octave_of_a_tempo_is_forgiven():
    slow = read_lead_sheet("key: C major\nbpm: 90\n| C | F | G | C |", "sheet")
    fast = at_times_the_tempo(2, slow)
    assert (has_its_tempo(slow, played(slow)), has_its_tempo(fast, played(slow))) == (1, 0)


def test_a_faster_band_still_plays_its_own_sheet():
    late = SHEET.model_copy(update={"offset": 0.5})
    sheet, band = faster(late, played(late), 1.25)
    np.testing.assert_allclose(sheet.beat_times(), late.beat_times() / 1.25)
    assert (has_its_tempo(sheet, band), has_its_tempo(late, band)) == (1, 0)
    assert keeps_its_beats(sheet, band) > 0.9 > keeps_its_beats(late, band)


def test_a_sheet_is_followed_in_part():
    half = read_lead_sheet("key: C major\nbpm: 120\n| C | Am | F | C | F | C |", "sheet")
    assert third_bar_has_its_chord(SHEET, played(half)) == 0.5


def test_a_relative_key_has_the_same_signature():
    relative = SHEET.model_copy(update={"key": Key.of_name("A minor")})
    assert has_its_signature(relative, played(SHEET)) == 1

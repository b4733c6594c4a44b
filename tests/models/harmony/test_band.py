"""The lead sheet of a band, from what it plays."""

import numpy as np
import pytest

from models.harmony.band import lead_sheet_of_band
from prep.made_up.render import render_song

RATE_HZ = 44_100


@pytest.fixture(scope="module")
def song():
    return render_song(600_001, 10.0)


@pytest.fixture(scope="module")
def sheet(song):
    return lead_sheet_of_band(song.inst, RATE_HZ)


def names_at(sheet, seconds):
    chords = list(sheet.chord_segments())
    return [
        next((one.chord and one.chord.harte for one in chords if one.start <= at < one.end), None) for at in seconds
    ]


def test_it_is_what_the_song_is(song, sheet):
    truth = song.truth
    assert sheet.bpm == pytest.approx(truth.tempo_bpm, rel=0.02)
    beats = sheet.beat_times()
    assert all(np.abs(beats - beat).min() < 0.05 for beat in truth.beats)
    assert all(np.abs(sheet.downbeat_times() - bar).min() < 0.05 for bar in truth.downbeats)
    middles = np.arange(0.25, truth.seconds, 0.5)
    true = [next(span.label for span in truth.chords if span.start <= at < span.end) for at in middles]
    found = names_at(sheet, middles)
    assert np.mean([one == other for one, other in zip(found, true, strict=True)]) > 0.8
    assert np.mean([one == other for one, other in zip(found, true[5:] + true[:5], strict=True)]) < 0.6


def test_a_band_a_fourth_higher_plays_chords_a_fourth_higher(song, sheet):
    """Played faster, which is higher: the sheet says both."""
    faster = lead_sheet_of_band(song.inst, round(RATE_HZ * 2 ** (5 / 12)))
    assert faster.bpm == pytest.approx(sheet.bpm * 2 ** (5 / 12), rel=0.02) or faster.bpm == pytest.approx(
        sheet.bpm * 2 ** (5 / 12) / 2, rel=0.02
    )
    assert faster.key is not None
    assert faster.key.signature == sheet.key.shifted(5).signature


@pytest.mark.parametrize("seconds", [0.3, 5.0])
def test_silence_has_none(seconds):
    assert lead_sheet_of_band(np.zeros((2, round(seconds * RATE_HZ)), np.float32), RATE_HZ).bars == ()


def test_noise_is_a_sheet_that_is_not_sure():
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 6 * RATE_HZ)).astype(np.float32)
    sheet = lead_sheet_of_band(noise, RATE_HZ)
    sure = [one.confidence for one in sheet.chord_segments() if one.chord is not None]
    assert np.mean(sure or [0.0]) < 0.7

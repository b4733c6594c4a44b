"""Tempo and beats agree with those that the songs were made with; another song's band and noise do not keep them."""

import numpy as np
import pytest

from infer.evaluate.measures.clip import Clip, Pulse
from infer.evaluate.measures.rhythm import (
    OCTAVES,
    Rhythm,
    beat_f,
    beat_f_off_phase,
    continuity,
    measure_rhythm,
    tempo_is_right,
)


def mean_of(rhythms: list[Rhythm], measure: str) -> float:
    return float(np.mean([getattr(rhythm, measure) for rhythm in rhythms]))


def test_tempo_and_beats_of_bands_are_those_of_the_songs(songs):
    told = [Pulse(song.truth.tempo_bpm, np.array(song.truth.beats), np.array(song.truth.beats)) for song in songs]
    found = [measure_rhythm(true, song.band.pulse) for true, song in zip(told, songs, strict=True)]
    assert mean_of(found, "tempo_acc2") >= 0.85
    assert mean_of(found, "beat_f") >= 0.85
    assert mean_of(found, "amlt") >= 0.8


def test_the_true_band_keeps_its_own_time_and_unrelated_ones_do_not(songs, shuffled, noises):
    true, other, noise = (
        [measure_rhythm(song.band.pulse, band.pulse) for song, band in zip(songs, bands, strict=True)]
        for bands in ([song.band for song in songs], shuffled, noises)
    )
    assert all(rhythm == Rhythm(1.0, 1.0, 1.0, 1.0, 1.0, 1.0) for rhythm in true)
    for measure in ("tempo_acc1", "tempo_acc2", "beat_f", "cmlt", "amlt", "onset_f"):
        assert max(mean_of(other, measure), mean_of(noise, measure)) < 0.6, measure


def test_double_time_is_right_at_the_allowed_levels_only():
    beats = np.arange(16) * 0.5
    doubled = np.arange(32) * 0.25
    assert beat_f(beats, doubled) == pytest.approx(2 / 3)
    strict, allowed = continuity(beats, doubled)
    assert strict < 0.1
    assert allowed > 0.9
    assert not tempo_is_right(120, 240, OCTAVES[:1])
    assert tempo_is_right(120, 240, OCTAVES)


@pytest.mark.parametrize(("bpm", "right"), [(115.3, True), (115.1, False), (124.7, True), (124.9, False), (0.0, False)])
def test_a_tempo_is_right_within_four_percent(bpm, right):
    assert tempo_is_right(120, bpm, OCTAVES[:1]) is right


def test_beats_count_within_70_ms():
    beats = np.arange(10) * 0.5
    assert beat_f(beats, beats + 0.069) == 1.0
    assert beat_f(beats, beats + 0.071) == 0.0


def test_off_phase_two_of_seven_shifts_are_near_enough_at_half_a_second_a_beat():
    beats = np.arange(200) * 0.5
    assert beat_f_off_phase(beats, beats + 0.003) == pytest.approx(2 / 7, abs=0.01)
    assert beat_f_off_phase(beats[:1], beats) == 0.0


def test_silence_has_no_beat(songs):
    silent = Clip(np.zeros_like(songs[0].band.wave)).pulse
    assert silent.tempo_bpm == 0.0
    assert measure_rhythm(songs[0].band.pulse, silent) == Rhythm(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

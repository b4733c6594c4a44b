"""Lead sheets of made-up vocals beside their truth, and what must hold of any vocal."""

from dataclasses import replace

import numpy as np
import pytest

from common.music.chord import Chord, Key
from common.music.lead_sheet import LeadSheet
from common.music.vocal_features import VocalFeatures, vocal_features
from models.harmony.harmoniser import Harmoniser
from prep.made_up.melody import compose
from prep.made_up.render import render_vocal
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.truth import SongTruth, tell_truth
from prep.made_up.voice import sing
from prep.made_up.world import draw_world

SEEDS = range(610_000, 610_006)
SECONDS = 10.0


@pytest.fixture(scope="module")
def songs() -> list[tuple[VocalFeatures, SongTruth]]:
    found = []
    for seed in SEEDS:
        world = draw_world(seed, SECONDS)
        features = vocal_features(render_vocal(seed, SECONDS), SAMPLE_RATE_HZ)
        found.append((features, tell_truth(world, compose(world))))
    return found


def sounding(sheet: LeadSheet, seconds: float) -> Chord | None:
    """The chord at a time."""
    return next((one.chord for one in sheet.chord_segments() if one.start <= seconds < one.end), None)


def right_chords(sheet: LeadSheet, truth: SongTruth) -> float:
    """Share of half seconds whose chord is the true one."""
    spans = [(span, Chord.of_harte(span.label)) for span in truth.chords]
    times = np.arange(0.25, truth.seconds, 0.5)
    return float(np.mean([any(s.start <= t < s.end and sounding(sheet, t) == c for s, c in spans) for t in times]))


def right_signature(sheet: LeadSheet, truth: SongTruth) -> bool:
    return sheet.key is not None and sheet.key.signature == Key.of_name(truth.full_key).signature


def test_sheets_by_rules_are_far_better_than_those_of_other_vocals(songs):
    sheets = [Harmoniser().lead_sheet_of(features) for features, _ in songs]
    truths = [truth for _, truth in songs]
    own = list(zip(sheets, truths, strict=True))
    others = list(zip([*sheets[1:], sheets[0]], truths, strict=True))
    for sheet, truth in own:
        assert sheet.bpm == pytest.approx(truth.tempo_bpm, rel=0.04)
        beats = sheet.beat_times()
        near = np.abs(np.array(truth.beats)[:, None] - beats).min(axis=1)
        assert np.mean(near < 0.07) > 0.9
    assert sum(right_signature(*pair) for pair in own) >= 5
    assert sum(right_signature(*pair) for pair in others) <= 3
    assert np.mean([right_chords(*pair) for pair in own]) > np.mean([right_chords(*pair) for pair in others]) + 0.1


@pytest.mark.parametrize("semitones", [-5, 1, 7])
def test_a_transposed_vocal_gives_a_transposed_sheet(songs, semitones):
    for features, _ in songs[:3]:
        higher = replace(features, midi=features.midi + np.float32(semitones))
        assert Harmoniser().lead_sheet_of(higher) == Harmoniser().lead_sheet_of(features).shifted(semitones)


def test_a_transposed_singer_gives_a_transposed_sheet():
    world = draw_world(610_002, SECONDS)
    sheets = []
    for semitones in (0, 2):
        phrases = tuple(tuple(replace(n, midi=n.midi + semitones) for n in phrase) for phrase in compose(world))
        samples = round(SECONDS * SAMPLE_RATE_HZ)
        wave = sing(phrases, singer=world.singer, samples=samples, seed=world.seed)
        sheets.append(Harmoniser().lead_sheet(wave, SAMPLE_RATE_HZ).shifted(-semitones))
    low, high = sheets
    assert low.key is not None
    assert high.key is not None
    assert (high.key.tonic, high.key.mode) == (low.key.tonic, low.key.mode)
    assert high.bpm == pytest.approx(low.bpm, rel=0.02)
    times = np.arange(0.25, SECONDS, 0.5)
    assert np.mean([sounding(low, t) == sounding(high, t) for t in times]) > 0.8


@pytest.mark.parametrize("seconds", [5.0, 40.0])
def test_short_and_long_vocals(seconds):
    sheet = Harmoniser().lead_sheet(render_vocal(610_001, seconds), SAMPLE_RATE_HZ)
    assert sheet.bpm == pytest.approx(draw_world(610_001, seconds).tempo_bpm, rel=0.04)
    assert sheet.starts[0] <= 0.8
    assert seconds - sheet.bars[0].seconds < sheet.starts[-1] < seconds + 2 * sheet.bars[0].seconds


def test_the_same_vocal_gives_the_same_sheet_and_a_seed_the_same_draw(songs):
    features = songs[0][0]
    harmoniser = Harmoniser()
    assert harmoniser.lead_sheet_of(features) == harmoniser.lead_sheet_of(features, seed=3)
    drawn = [harmoniser.lead_sheet_of(features, temperature=2.0, seed=seed) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({sheet.model_dump_json() for sheet in drawn}) == 3
    assert len({tuple(sheet.beat_times()) for sheet in drawn}) == 1


@pytest.mark.parametrize("samples", [0, 10, 44_100, 441_000])
def test_silence_gives_an_empty_sheet(samples):
    assert Harmoniser().lead_sheet(np.zeros((2, samples), np.float32), SAMPLE_RATE_HZ) == LeadSheet()


def test_a_single_short_note_gives_at_most_a_bar():
    time = np.arange(8000) / 16_000
    wave = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 9)) * 0.1
    assert len(Harmoniser().lead_sheet(np.asarray(wave, np.float32), 16_000).bars) <= 1

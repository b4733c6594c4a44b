"""Pitch, level and onsets of sounds whose truth is known."""

import numpy as np
import pytest

from common.music.vocal_features import (
    FEATURE_RATE_HZ,
    VocalFeatures,
    feature_frames,
    means_between,
    vocal_features,
)
from prep.made_up.melody import compose
from prep.made_up.render import render_vocal
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.world import draw_world

RATE_HZ = 22_050


def sung(midi: float, seconds: float = 0.6, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A vowel-like tone, harmonics falling by 9 dB an octave: float32 [N]."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    hertz = 440.0 * 2 ** ((midi - 69) / 12)
    harmonics = range(1, int(4000 / hertz) + 1)
    return (0.1 * sum(np.sin(2 * np.pi * hertz * k * time) / k**1.5 for k in harmonics)).astype(np.float32)


@pytest.mark.parametrize("midi", [41.0, 48.3, 57.0, 64.0, 69.5, 76.0, 84.0])
def test_the_pitch_is_that_of_the_tone(midi):
    features = vocal_features(sung(midi), RATE_HZ)
    inside = slice(5, -5)
    assert features.midi[inside] == pytest.approx(midi, abs=0.1)
    assert features.confidence[inside].min() > 0.9
    assert features.tuning == pytest.approx((midi + 0.5) % 1.0 - 0.5, abs=0.1) or abs(features.tuning) > 0.4


def test_chroma_follows_the_tuning_of_the_singer():
    features = vocal_features(np.concatenate([sung(60.3), sung(64.3)]), RATE_HZ)
    assert features.chroma.argmax(axis=0)[[10, 50]].tolist() == [0, 4]
    assert features.chroma.sum(axis=0) == pytest.approx(features.confidence, abs=1e-5)


def test_a_made_up_singer_is_followed():
    right, total = 0, 0
    for seed in (11, 12):
        features = vocal_features(render_vocal(seed, 8.0), SAMPLE_RATE_HZ)
        for note in (note for phrase in compose(draw_world(seed, 8.0)) for note in phrase):
            frames = slice(round((note.start_seconds + 0.1) * FEATURE_RATE_HZ), int(note.end_seconds * FEATURE_RATE_HZ))
            near = (np.abs(features.midi[frames] - note.midi) < 0.6) & (features.confidence[frames] > 0.5)
            right, total = right + near.sum(), total + near.size
    assert total > 100
    assert right / total > 0.95


def test_gain_changes_nothing():
    wave = np.concatenate([sung(60), np.zeros(8000, np.float32), sung(67)])
    loud, quiet = vocal_features(wave, RATE_HZ), vocal_features(wave * np.float32(0.03), RATE_HZ)
    assert quiet.confidence == pytest.approx(loud.confidence, abs=0.05)
    assert quiet.onsets == pytest.approx(loud.onsets, abs=0.05)
    assert quiet.level == pytest.approx(loud.level, abs=0.01)


def test_onsets_and_jumps_are_where_notes_begin():
    features = vocal_features(np.concatenate([np.zeros(11025, np.float32), sung(60), sung(67)]), RATE_HZ)
    begins, changes = round(0.5 * FEATURE_RATE_HZ), round(1.1 * FEATURE_RATE_HZ)
    assert abs(int(features.onsets.sum(axis=0).argmax()) - begins) <= 1
    assert abs(int(features.jumps.argmax()) - changes) <= 3
    assert features.jumps[begins + 8 : changes - 5].max() < 0.1


@pytest.mark.parametrize("wave", [np.zeros(RATE_HZ), np.full((2, RATE_HZ), 1e-5), np.zeros(1)])
def test_nobody_sings_in_silence(wave):
    features = vocal_features(wave, RATE_HZ)
    assert not features.sung
    assert not features.chroma.any()


def test_noise_has_no_sure_pitch():
    noise = np.random.default_rng(0).standard_normal(2 * RATE_HZ) * 0.1
    features = vocal_features(noise, RATE_HZ)
    assert np.mean(features.confidence) < 0.1
    assert not features.sung


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 2.345])
def test_frames_are_fifty_a_second_at_any_rate(rate_hz, seconds):
    features = vocal_features(np.ones((2, round(seconds * rate_hz))) * 0.1, rate_hz)
    assert abs(features.frames - 1 - seconds * FEATURE_RATE_HZ) <= 1
    for track in (features.midi, features.confidence, features.level, features.jumps, *features.onsets):
        assert track.shape == (features.frames,)
        assert np.isfinite(track).all()


def test_means_between_times():
    track = np.arange(100.0)[None]
    assert means_between(track, np.array([0.0, 0.2, 0.2, 1.0, 9.0])).tolist() == [[4.5, 0.0, 29.5, 74.5]]


def test_features_are_plain_values():
    features = vocal_features(sung(60), RATE_HZ)
    assert isinstance(features, VocalFeatures)
    assert {features.midi.dtype, features.chroma.dtype, features.onsets.dtype} == {np.dtype(np.float32)}


def test_packed_features_come_back_but_for_rounding_and_the_singers_tuning():
    seconds = np.arange(44_100) / 44_100
    features = vocal_features(0.3 * np.sin(2 * np.pi * 452 * seconds), 44_100)  # 0.47 of a semitone sharp
    again = VocalFeatures.unpacked(features.packed())
    assert features.frames == feature_frames(44_100, 44_100)
    assert again.tuning == 0.0
    np.testing.assert_allclose(again.midi[5:-5], features.midi[5:-5] - features.tuning, atol=1 / 64)
    np.testing.assert_allclose(again.chroma, features.chroma, atol=1 / 50)
    for name in ("confidence", "level", "onsets"):
        np.testing.assert_allclose(getattr(again, name), getattr(features, name), atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "rate_hz"), [(44_100, 44_100), (44_101, 44_100), (96_001, 48_000), (12_345, 44_100)]
)
def test_frames_are_as_many_as_is_said(samples, rate_hz):
    assert vocal_features(np.zeros(samples, np.float32), rate_hz).frames == feature_frames(samples, rate_hz)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audio.wave import loudness_lufs, peak_dbfs
from common.bases import ACE_STEP_1
from common.errors import UserError
from prep.config import LoudnessConfig, PrepConfig, SegmentConfig, TrimConfig, load_prep_config
from prep.sources.segment import LEVEL_SAMPLES, Parts, SampleSpan, cut, level, measure, mix_levels, sounding, spans
from shards.rejection import SongError

LATENTS = ACE_STEP_1.latents

SHORT = SegmentConfig(max_seconds=4.0, min_seconds=0.5, search_seconds=1.0)


def loud(seconds):
    return 0.1 * np.random.default_rng(0).normal(size=(2, round(seconds * LATENTS.sample_rate_hz))).astype(np.float32)


def quiet(seconds):
    return np.zeros((2, round(seconds * LATENTS.sample_rate_hz)), np.float32)


def join(*waves):
    return np.concatenate(waves, axis=1)


def times(piece, factor):
    return Parts(*(wave * np.float32(factor) for wave in vars(piece).values()))


def level_of(piece, **settings):
    return level(
        {part: measure(wave, LATENTS.sample_rate_hz) for part, wave in vars(piece).items()}, LoudnessConfig(**settings)
    )


def test_outer_silence_goes_and_inner_stays():
    wave = join(quiet(1.0), loud(1.0), quiet(1.0), loud(1.0), quiet(2.0))
    span = sounding(mix_levels(wave), wave.shape[1], LATENTS.sample_rate_hz, TrimConfig(keep_seconds=0.1))
    assert span.start / LATENTS.sample_rate_hz == pytest.approx(0.9, abs=2 * LEVEL_SAMPLES / LATENTS.sample_rate_hz)
    assert span.end / LATENTS.sample_rate_hz == pytest.approx(4.1, abs=2 * LEVEL_SAMPLES / LATENTS.sample_rate_hz)


def test_a_song_that_sounds_throughout_keeps_every_sample():
    wave = loud(1.2345)
    assert sounding(mix_levels(wave), wave.shape[1], LATENTS.sample_rate_hz, TrimConfig()) == SampleSpan(
        0, wave.shape[1]
    )


def test_a_silent_song_is_rejected():
    with pytest.raises(SongError) as raised:
        spans(mix_levels(loud(2.0) * 1e-4), 2 * LATENTS.sample_rate_hz, LATENTS, TrimConfig(), SegmentConfig())
    assert raised.value.reason == "silent"
    assert str(raised.value).startswith("its loudest moment is at -9")
    assert str(raised.value).endswith(" dBFS, no louder than trim.silence_dbfs (-60 dBFS).")


def test_a_short_song_is_rejected():
    wave = join(quiet(3.0), loud(0.5))
    with pytest.raises(SongError) as raised:
        spans(mix_levels(wave), wave.shape[1], LATENTS, TrimConfig(), SegmentConfig())
    assert raised.value.reason == "too_short"
    assert str(raised.value) == ("0.61 s without its outer silence is shorter than segment.min_seconds (1 s).")


def test_a_cut_falls_into_the_pause_before_the_limit():
    wave = join(loud(3.3), quiet(0.3), loud(3.0))
    first, second = cut(mix_levels(wave), SampleSpan(0, wave.shape[1]), LATENTS, SHORT)
    assert 3.3 < first.end / LATENTS.sample_rate_hz < 3.6
    assert second == SampleSpan(first.end, wave.shape[1])


@given(seconds=st.floats(0.5, 30.0), start=st.integers(0, 200), seed=st.integers(0, 9))
def test_pieces_cover_the_song_within_the_limits(seconds, start, seed):
    window = SampleSpan(start * LEVEL_SAMPLES, start * LEVEL_SAMPLES + round(seconds * LATENTS.sample_rate_hz))
    levels = np.random.default_rng(seed).uniform(-60, -10, size=window.end // LEVEL_SAMPLES + 1)
    pieces = cut(levels, window, LATENTS, SHORT)
    assert [pieces[0].start, *(piece.end for piece in pieces)] == [*(piece.start for piece in pieces), window.end]
    lengths = np.array([piece.end - piece.start for piece in pieces])
    assert lengths.max() <= SHORT.max_seconds * LATENTS.sample_rate_hz
    assert lengths.min() >= SHORT.min_seconds * LATENTS.sample_rate_hz - 1
    assert (lengths[:-1] % LATENTS.frame_samples == 0).all()


def test_one_gain_brings_the_mix_to_its_loudness(music):
    piece = times(music(2.0), 0.2)
    found = level_of(piece, target_lufs=-20.0)
    assert found is not None
    assert not found.gain.peak_limited
    levelled = times(piece, found.gain.factor)
    assert loudness_lufs(levelled.mix, LATENTS.sample_rate_hz) == pytest.approx(-20.0, abs=1e-3)
    np.testing.assert_allclose(levelled.vocal + levelled.inst, levelled.mix, atol=1e-6)
    assert found.lufs.mix == pytest.approx(-20.0 - found.gain.db, abs=1e-3)


def test_the_loudest_peak_of_any_part_limits_the_gain(music):
    piece = music(2.0)
    click = np.zeros_like(piece.mix)
    click[:, 1000] = 0.9
    peaky = Parts(piece.vocal + click, piece.inst - click, piece.mix)
    found = level_of(peaky, target_lufs=-5.0)
    assert found is not None
    assert found.gain.peak_limited
    assert max(peak_dbfs(wave) for wave in vars(times(peaky, found.gain.factor)).values()) == pytest.approx(
        -1.0, abs=1e-3
    )


def test_another_part_can_be_measured_and_a_silent_one_falls_back_to_the_mix(music):
    piece = times(music(2.0), 0.2)
    by_vocal = level_of(piece, target_lufs=-20.0, measure="vocal")
    assert by_vocal is not None
    assert loudness_lufs(piece.vocal * by_vocal.gain.factor, LATENTS.sample_rate_hz) == pytest.approx(-20.0, abs=1e-3)
    unsung = Parts(quiet(2.0), piece.mix, piece.mix)
    assert level_of(unsung, measure="vocal") == level_of(unsung)
    assert level_of(Parts(quiet(2.0), quiet(2.0), quiet(2.0))) is None


def test_a_constant_offset_is_no_sound(music):
    piece = music(2.0)
    raised = Parts(piece.vocal, piece.inst, piece.mix + np.float32(0.25))
    found, plain = level_of(raised), level_of(piece)
    assert found is not None
    assert plain is not None
    assert found.lufs.mix == pytest.approx(plain.lufs.mix, abs=1e-3)
    constant = np.full_like(piece.mix, 0.3)
    assert level_of(Parts(constant, constant * 0, constant)) is None


def test_config_errors_name_both_keys():
    with pytest.raises(UserError) as raised:
        load_prep_config("prep_base", ["segment.max_seconds=10"])
    assert str(raised.value) == (
        "prep_base: segment: max_seconds 10 is less than search_seconds 15 + 2 x min_seconds 1; "
        "raise it or lower the others"
    )
    with pytest.raises(UserError, match=r"targets names inst twice; leave one out"):
        load_prep_config("prep_base", [], targets="inst,inst")


def test_flags_are_settings():
    assert load_prep_config("prep_base", []) == PrepConfig()
    changed = load_prep_config("prep_base", ["text.seed=3"], separator="none", targets="mix")
    assert (changed.text.seed, changed.separator.name, changed.targets) == (3, "none", ("mix",))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio.disk_wave import DiskWave
from common.audio.wave import peak_dbfs, resample
from infer.audio.mixdown import MixdownSettings, at_output_rate, below_ceiling, mixdown, output_samples

PLAIN = MixdownSettings()


def noise(samples, peak):
    wave = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    return wave * np.float32(peak / np.abs(wave).max())


def joined(blocks):
    return np.concatenate(list(blocks), axis=1)


def mixed(vocal, band, mixdown_settings=PLAIN):
    with DiskWave(44_100) as sung, DiskWave(44_100) as played:
        sung.append(vocal)
        played.append(band)
        return joined(mixdown(sung, played, mixdown_settings))


@settings(deadline=None)
@given(samples=st.integers(1, 30_000), rate_hz=st.sampled_from([8000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]))
def test_a_result_has_the_vocals_length_to_the_sample(samples, rate_hz):
    wave = resample(np.zeros((2, samples), np.float32), rate_hz, 44_100)
    expected = output_samples(samples, rate_hz)
    assert joined(at_output_rate([wave], 44_100, expected)).shape == (2, expected)
    assert abs(expected / 48_000 - samples / rate_hz) <= 0.5 / 48_000 + 1e-12


def test_a_quiet_mix_is_the_plain_sum():
    vocal, band = noise(300_000, 0.3), noise(300_001, 0.4)[:, :300_000]
    np.testing.assert_array_equal(mixed(vocal, band), vocal + band)


@pytest.mark.parametrize("peak", [0.6, 1.0, 4.0])
def test_a_loud_mix_is_lowered_as_a_whole(peak):
    vocal, band = noise(300_000, peak), noise(300_001, peak)[:, :300_000]
    mix = mixed(vocal, band)
    assert peak_dbfs(mix) == pytest.approx(-1.0, abs=1e-4)
    np.testing.assert_allclose(mix * np.abs(vocal + band).max() / np.abs(mix).max(), vocal + band, rtol=1e-5, atol=1e-6)


def test_the_vocal_may_be_louder_or_softer():
    vocal, band = noise(500, 0.1), noise(501, 0.1)[:, :500]
    np.testing.assert_allclose(
        mixed(vocal, band, MixdownSettings(vocal_db=6.0)), 10**0.3 * vocal + band, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("highest", [0.0, -6.0])
def test_the_highest_peak_may_be_chosen(highest):
    loud = noise(500, 2.0)
    chosen = MixdownSettings(peak_dbfs=highest)
    assert peak_dbfs(mixed(loud, loud, chosen)) == pytest.approx(highest, abs=1e-4)
    with DiskWave(44_100) as tape:
        tape.append(loud)
        assert peak_dbfs(joined(below_ceiling(tape, chosen))) == pytest.approx(highest, abs=1e-4)


def test_silence_stays_silence():
    assert not mixed(np.zeros((2, 9), np.float32), np.zeros((2, 9), np.float32)).any()

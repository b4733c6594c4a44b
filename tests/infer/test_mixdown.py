import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.audio import peak_dbfs, resample
from infer.mixdown import at_output_rate, mixdown, output_samples


def noise(samples, peak):
    wave = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    return wave * np.float32(peak / np.abs(wave).max())


@given(samples=st.integers(1, 30_000), rate_hz=st.sampled_from([8000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]))
def test_a_result_has_the_vocals_length_to_the_sample(samples, rate_hz):
    wave = resample(np.zeros((2, samples), np.float32), rate_hz, 44_100)
    expected = output_samples(samples, rate_hz)
    assert at_output_rate(wave, expected).shape == (2, expected)
    assert abs(expected / 48_000 - samples / rate_hz) <= 0.5 / 48_000 + 1e-12


def test_a_quiet_mix_is_the_plain_sum():
    vocal, band = noise(500, 0.3), noise(501, 0.4)[:, :500]
    np.testing.assert_array_equal(mixdown(vocal, band), vocal + band)


@pytest.mark.parametrize("peak", [0.6, 1.0, 4.0])
def test_a_loud_mix_is_lowered_as_a_whole(peak):
    vocal, band = noise(500, peak), noise(501, peak)[:, :500]
    mix = mixdown(vocal, band)
    assert peak_dbfs(mix) == pytest.approx(-1.0, abs=1e-4)
    np.testing.assert_allclose(mix * np.abs(vocal + band).max() / np.abs(mix).max(), vocal + band, rtol=1e-5)


def test_silence_stays_silence():
    assert not mixdown(np.zeros((2, 9), np.float32), np.zeros((2, 9), np.float32)).any()

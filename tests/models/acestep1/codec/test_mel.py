"""The log-mel against upstream's numbers, and what it must be for tones and silence."""

import math

import pytest
import torch
import torchaudio
from torch.nn import functional

from common.audio.wave import resample
from common.bases import ACE_STEP_1
from models.acestep1.codec.mel import HOP_SAMPLES, MEL_FLOOR, MelTables, log_mel, magnitudes, mel_tables

LATENTS = ACE_STEP_1.latents


@pytest.fixture
def tables() -> MelTables:
    return mel_tables(torch.device("cpu"))


@pytest.fixture
def rounded_tables(tables) -> MelTables:
    """The tables as the published vocoder stores them."""
    return MelTables(tables.window.bfloat16().float(), tables.filters.bfloat16().float())


@pytest.fixture
def padded(golden):
    """The golden's wave at 44100 Hz, zero-padded to whole latent frames. [2, N]"""
    return whole_frames(
        torch.from_numpy(resample(golden("logmel").inputs["wav_48k"].numpy(), 48_000, LATENTS.sample_rate_hz))
    )


def whole_frames(wave: torch.Tensor) -> torch.Tensor:
    return functional.pad(wave, (0, -wave.shape[-1] % LATENTS.frame_samples))


def test_filters_are_upstreams(golden, tables):
    torch.testing.assert_close(tables.filters, golden("logmel").expected["mel_fb_slaney"], rtol=0, atol=1e-7)


def test_resampled_wave_is_upstreams(golden, padded):
    expected = golden("logmel").expected["resampled_44k"]
    torch.testing.assert_close(padded[:, : expected.shape[-1]], expected, rtol=0, atol=1e-5)


def test_magnitudes_are_upstreams(golden, padded, tables):
    expected = golden("logmel").expected["linear_spec_first3"]
    found = magnitudes(padded, tables.window)[..., :3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_log_mel_is_upstreams(golden, padded):
    torch.testing.assert_close(log_mel(padded), golden("logmel").expected["logmel"], rtol=0, atol=1e-4)


def test_log_mel_with_rounded_tables_is_upstreams(golden, padded, rounded_tables):
    expected = golden("logmel").expected["logmel_bf16_window_and_fb"]
    torch.testing.assert_close(log_mel(padded, rounded_tables), expected, rtol=0, atol=1e-4)


def test_log_mel_with_rounded_tables_and_resampler_is_upstreams(golden, rounded_tables):
    known = golden("logmel")
    resampler = torchaudio.transforms.Resample(48_000, LATENTS.sample_rate_hz)
    resampler.kernel = resampler.kernel.bfloat16().float()
    wave = resampler(known.inputs["wav_48k"])
    torch.testing.assert_close(wave, known.expected["resampled_44k_bf16_kernel"], rtol=0, atol=1e-5)
    expected = known.expected["logmel_bf16_window_fb_and_resampler"]
    torch.testing.assert_close(log_mel(whole_frames(wave), rounded_tables), expected, rtol=0, atol=1e-4)


def test_lengths_are_upstreams(golden):
    for clip, lengths in golden("logmel").notes["length_rule"].items():
        samples, rate_hz = map(int, clip.split("@"))
        resampled = math.ceil(samples * LATENTS.sample_rate_hz / rate_hz)
        assert resampled == lengths["resampled"]
        assert LATENTS.frames_of(resampled) == lengths["latent_frames"]
        assert LATENTS.frames_of(resampled) * LATENTS.frame_samples == lengths["padded"]
        assert lengths["padded"] // HOP_SAMPLES == lengths["mel_frames"]


def test_log_mel_has_the_frames_of_that_table(golden):
    for clip, lengths in golden("logmel").notes["length_rule"].items():
        samples, rate_hz = map(int, clip.split("@"))
        if samples < 200_000:
            wave = torch.from_numpy(resample(torch.zeros(1, samples).numpy(), rate_hz, LATENTS.sample_rate_hz))
            assert wave.shape[-1] == lengths["resampled"]
            assert log_mel(whole_frames(wave)).shape[-1] == lengths["mel_frames"]


@pytest.mark.parametrize("hertz", [100, 440, 3000, 12_000])
def test_a_tone_is_loudest_in_the_band_around_it(hertz, tables):
    tone = torch.sin(2 * math.pi * hertz * torch.arange(4 * LATENTS.frame_samples) / LATENTS.sample_rate_hz)[None]
    band = log_mel(tone)[0, :, 8].argmax()
    around = tables.filters[:, band].nonzero() * (LATENTS.sample_rate_hz / 2048)
    assert around.min() - 22 <= hertz <= around.max() + 22


def test_silence_lies_near_the_floor_and_comes_in_float32():
    silent = log_mel(torch.zeros(2, LATENTS.frame_samples, dtype=torch.bfloat16))
    assert silent.dtype == torch.float32
    assert silent.min() >= math.log(MEL_FLOOR) - 1e-5
    assert silent.max() < -8


def test_tables_first_made_in_inference_mode_can_be_trained_through():
    mel_tables.cache_clear()
    wave = torch.randn(2, 8192)
    with torch.inference_mode():
        log_mel(wave)
    wave.requires_grad_()
    log_mel(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()

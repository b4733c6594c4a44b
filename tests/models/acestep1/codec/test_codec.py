"""The codec's halves against upstream's numbers, alone and together, whole and in overlapping windows."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from common.audio.wave import resample
from common.bases import ACE_STEP_1
from models.acestep1.codec.codec import (
    BLOCK_MEL_FRAMES,
    LONGEST_PIECE,
    MEL_FRAMES,
    WINDOW_FRAMES,
    WINDOW_HOP,
    Codec,
    CodecConfig,
    decode_audio,
    decode_audio_in_pieces,
    decode_mel_in_windows,
    denormalise_mel,
    normalise_mel,
    vocode_in_blocks,
)
from models.acestep1.codec.mel import HOP_SAMPLES, log_mel
from models.acestep1.codec.vocoder import Vocoder, VocoderConfig, fold
from models.loading.weights import network_config

LATENTS = ACE_STEP_1.latents


@pytest.fixture
def codec(golden) -> Codec:
    known = golden("dcae")
    network = Codec(network_config(CodecConfig, known.notes["config"], "golden"), encoder=True, decoder=True)
    network.load_state_dict(known.weights)
    return network.eval().requires_grad_(False)


@pytest.fixture
def vocoder(golden) -> Vocoder:
    known = golden("vocoder")
    network = Vocoder(network_config(VocoderConfig, known.notes["config"], "golden"))
    network.load_state_dict(fold(known.weights))
    return network.eval().requires_grad_(False)


@pytest.fixture
def wave(golden) -> Tensor:
    """[2, N] at 44100 Hz."""
    return torch.from_numpy(resample(golden("logmel").inputs["wav_48k"].numpy(), 48_000, LATENTS.sample_rate_hz))


def noise(frames: int) -> Tensor:
    """Latents [C, H, T]."""
    return torch.randn(8, 16, frames, generator=torch.Generator().manual_seed(frames))


def assert_golden(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


@dataclass
class Widest:
    """The longest input that a network was given."""

    frames: int = 0

    def __call__(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.frames = max(self.frames, inputs[0].shape[-1])


@pytest.mark.parametrize("longest", [1, 2, 5, LONGEST_PIECE])
def test_latents_are_upstreams_however_many_frames_are_encoded_at_once(golden, codec, wave, longest):
    assert_golden(codec.encode(wave, longest=longest), golden("dcae").expected["latents"][0])


def test_normalised_mel_is_upstreams(golden, wave):
    padded = torch.nn.functional.pad(wave, (0, -wave.shape[-1] % LATENTS.frame_samples))
    expected = golden("logmel").expected["mel_normalised"]
    torch.testing.assert_close(normalise_mel(log_mel(padded)), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(denormalise_mel(normalise_mel(log_mel(padded))), log_mel(padded))


def test_encoder_is_upstreams(golden, codec):
    known = golden("dcae")
    assert_golden(codec.encoder(known.inputs["mel_normalised"]), known.expected["encoder_raw"])


def test_encoder_of_a_single_latent_frame_is_upstreams(golden, codec):
    known = golden("dcae")
    found = codec.encoder(known.inputs["mel_normalised"][..., :MEL_FRAMES])
    assert_golden(found, known.expected["encoder_raw_first_8_mel_frames"])


def test_decoder_of_a_single_latent_frame_is_upstreams(golden, codec):
    known = golden("dcae")
    assert_golden(codec.decoder(known.expected["encoder_raw_first_8_mel_frames"]), known.expected["decoder_of_that"])


def test_decoded_mel_is_upstreams(golden, codec):
    known = golden("dcae")
    assert_golden(codec.decode_mel(known.expected["latents"][0]), known.expected["decoder_mel_db"][0])
    assert_golden(normalise_mel(known.expected["decoder_mel_db"]), known.expected["decoder_mel_normalised"])


def test_decoded_wave_is_upstreams(golden, codec, vocoder):
    known = golden("codec_decode")
    found = decode_audio(codec, vocoder, known.inputs["latents"][0])
    torch.testing.assert_close(found, known.expected["wav_44k"], rtol=0, atol=2e-5)
    at_48k = torch.from_numpy(resample(found.numpy(), LATENTS.sample_rate_hz, 48_000))
    torch.testing.assert_close(at_48k, known.expected["wav_48k"], rtol=0, atol=2e-5)


def test_overlapped_decode_is_upstreams_and_sees_one_window_at_a_time(golden, codec, vocoder):
    known = golden("codec_decode")
    notes = known.notes["overlap"]
    window, block = Widest(), Widest()
    codec.decoder.register_forward_pre_hook(window)
    vocoder.register_forward_pre_hook(block)
    found = torch.cat(list(decode_audio_in_pieces(codec, vocoder, known.inputs["latents_long"][0])), dim=1)
    assert list(found.shape) == notes["wav_shape"]
    for name, (start, stop) in notes["slices"].items():
        expected = known.expected[f"overlap_slice_{name}"]
        torch.testing.assert_close(found[:, start:stop], expected, rtol=0, atol=2e-5, msg=name)
    torch.testing.assert_close(found.mean(1), torch.tensor(notes["mean"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.square().mean(1).sqrt(), torch.tensor(notes["rms"]), rtol=0, atol=1e-4)
    assert (window.frames, block.frames) == (WINDOW_FRAMES, BLOCK_MEL_FRAMES)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_half_alone_gives_the_same_numbers(golden, codec, wave, half):
    known = golden("dcae")
    config = network_config(CodecConfig, known.notes["config"], "golden")
    alone = Codec(config, encoder=half == "encoder", decoder=half == "decoder").eval().requires_grad_(False)
    assert all(name.startswith(half) for name in alone.state_dict())
    alone.load_state_dict({name: weight for name, weight in known.weights.items() if name.startswith(half)})
    if half == "encoder":
        assert alone.decoder is None
        assert torch.equal(alone.encode(wave), codec.encode(wave))
    else:
        assert alone.encoder is None
        assert torch.equal(alone.decode_mel(noise(3)), codec.decode_mel(noise(3)))


@pytest.mark.parametrize("samples", [1, LATENTS.frame_samples, LATENTS.frame_samples + 1])
def test_a_wave_becomes_whole_frames_and_its_padding_is_silence(codec, samples):
    wave = 0.1 * torch.ones(2, samples)
    frames = -(-samples // LATENTS.frame_samples)
    padded = torch.cat([wave, torch.zeros(2, frames * LATENTS.frame_samples - samples)], dim=1)
    assert codec.encode(wave).shape == (8, 16, frames)
    assert torch.equal(codec.encode(wave), codec.encode(padded))


def test_decoded_audio_is_cut_to_the_samples_asked_for(codec, vocoder):
    whole = decode_audio(codec, vocoder, noise(2))
    assert whole.shape == (2, 2 * LATENTS.frame_samples)
    assert torch.equal(decode_audio(codec, vocoder, noise(2), samples=5000), whole[:, :5000])


def test_what_fits_one_window_and_one_block_is_decoded_whole(codec, vocoder):
    latents = noise(BLOCK_MEL_FRAMES // MEL_FRAMES)
    whole = decode_audio(codec, vocoder, latents)
    pieces = list(decode_audio_in_pieces(codec, vocoder, latents))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, WINDOW_HOP, WINDOW_HOP + 1, WINDOW_FRAMES + 1])
def test_windows_join_to_all_frames(codec, frames):
    mel = decode_mel_in_windows(codec, noise(frames))
    assert mel.shape == (2, 128, frames * MEL_FRAMES)


@pytest.mark.parametrize("mel_frames", [1, 508, 512, 513, 1020, 1021])
def test_blocks_join_to_all_samples(vocoder, mel_frames):
    wave = vocode_in_blocks(vocoder, torch.full((1, 128, mel_frames), -5.0))
    assert wave.shape == (1, mel_frames * HOP_SAMPLES)
    assert wave.isfinite().all()

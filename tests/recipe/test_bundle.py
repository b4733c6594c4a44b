"""The recipe gives the bundle that ships, byte for byte, and networks whose signals stay in range."""

import math

import pytest
import torch
from demucs.apply import apply_model
from demucs.hf import load_safetensors_model

from common.latents import SAMPLE_RATE_HZ
from models.checkpoint import (
    TINY,
    open_codec,
    open_text_encoder,
    open_transformer,
    open_vocoder,
)
from models.codec import decode_audio
from recipe import bundle


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    """A wobbling tone that comes and goes, over noise. [2, N]"""
    time = torch.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = 0.2 * torch.sin(2 * math.pi * 220 * time + 3 * torch.sin(5 * time)) * (torch.sin(4 * time) > 0)
    return tone + 0.02 * torch.randn(2, len(time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "write",
    [
        bundle.write_transformer,
        bundle.write_codec,
        bundle.write_vocoder,
        bundle.write_text_encoder,
        bundle.write_separator,
    ],
)
def test_a_rebuild_gives_the_shipped_bytes(write, tmp_path):
    write(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) >= 2
    for path in made:
        assert path.read_bytes() == (TINY / path.relative_to(tmp_path)).read_bytes(), path.name


def test_latents_and_waves_are_of_ordinary_size(music):
    codec, vocoder = open_codec(TINY, encoder=True, decoder=True), open_vocoder(TINY)
    latents = codec.encode(music)
    assert 0.2 < latents.square().mean().sqrt() < 2
    wave = decode_audio(codec, vocoder, latents, samples=music.shape[-1])
    assert wave.shape == music.shape
    assert 0.02 < wave.square().mean().sqrt() < 0.3
    assert wave.abs().max() < 0.99


def test_velocities_and_text_states_are_of_ordinary_size():
    transformer, text = open_transformer(TINY), open_text_encoder(TINY)
    prompt = text.embed(["pop, piano"])
    assert 0.5 < prompt.states.std() < 2
    conditions = transformer.encode(
        prompt.states, prompt.mask, torch.zeros(1, 512), torch.tensor([[261, 2]]), torch.ones(1, 2)
    )
    latents = torch.randn(1, 8, 16, 32, generator=torch.Generator().manual_seed(1))
    sample = transformer.decode(latents, torch.tensor([500.0]), conditions).sample
    assert 0.3 < sample.std() < 3


def test_the_separator_opens_as_demucs_opens_it_and_gives_vocals(music):
    separator = load_safetensors_model(TINY / "demucs" / "tiny.safetensors").eval()
    assert separator.samplerate == SAMPLE_RATE_HZ
    assert separator.audio_channels == 2
    normalised = (music - music.mean()) / music.std()
    with torch.no_grad():
        stems = apply_model(separator, normalised[None], shifts=0)[0]
    vocals = stems[separator.sources.index("vocals")]
    assert vocals.shape == music.shape
    assert 0.1 < vocals.std() < 2

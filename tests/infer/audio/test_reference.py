import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audio.wave import read_audio, stereo_at, write_audio
from common.bases import ACE_STEP_1
from common.canonical import sha256_of_file
from common.errors import UserError
from infer.audio.reference import BlendSettings, blend_latents, frequency_mask, read_reference
from models.loading.checkpoint import TINY, open_codec

LATENTS = ACE_STEP_1.latents


def encoder():
    return open_codec(TINY, encoder=True, decoder=False)


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Generated, reference."""
    return torch.randn(8, 16, 9), torch.randn(8, 16, 9)


@settings(deadline=None)
@given(ratio=st.floats(0, 1))
def test_mix_ratio_is_the_share_of_what_was_generated(ratio):
    generated, reference = torch.ones(8, 16, 9), torch.zeros(8, 16, 9)
    torch.testing.assert_close(
        blend_latents(generated, reference, BlendSettings(mix_ratio=ratio)), torch.full((8, 16, 9), ratio)
    )


def test_all_of_one_is_that_one_bit_by_bit(latents):
    generated, reference = latents
    assert torch.equal(blend_latents(*latents, BlendSettings(mix_ratio=1.0)), generated)
    assert torch.equal(blend_latents(*latents, BlendSettings(mix_ratio=0.0)), reference)


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("high", [False, True])
def test_preserved_rows_are_the_references_and_the_others_are_blended(latents, low, high):
    _, reference = latents
    blended = blend_latents(*latents, BlendSettings(mix_ratio=0.25, preserve_low=low, preserve_high=high))
    plain = blend_latents(*latents, BlendSettings(mix_ratio=0.25))
    for rows, preserved in ((slice(0, 4), low), (slice(4, 12), False), (slice(12, 16), high)):
        assert torch.equal(blended[:, rows], (reference if preserved else plain)[:, rows])
    assert not torch.equal(plain[:, :4], reference[:, :4])
    mask = frequency_mask(BlendSettings(preserve_low=low, preserve_high=high), (8, 16, 3))
    assert mask.sum() == 8 * (16 - 4 * low - 4 * high)


def test_a_reference_is_encoded_as_long_as_the_vocal(tmp_path, make_voice):
    path = tmp_path / "band.flac"
    write_audio(path, make_voice(1.5, 48_000), 48_000)
    reference = read_reference(path, LATENTS, samples=30_000, encoder=encoder, sha256=sha256_of_file)
    wave = stereo_at(read_audio(path), 44_100)[:, : 8 * 4096]
    with torch.no_grad():
        expected = open_codec(TINY, encoder=True, decoder=False).encode(torch.from_numpy(wave))
    assert torch.equal(reference.latents, expected)
    assert reference.record.file == path.as_posix()


def test_a_reference_that_ends_too_soon_says_so(tmp_path, make_voice):
    write_audio(tmp_path / "band.wav", make_voice(0.5, 48_000), 48_000)
    message = "band.wav: 0.50 s is shorter than the vocal (1.00 s). Give a longer one."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_reference(tmp_path / "band.wav", LATENTS, samples=44_100, encoder=encoder, sha256=sha256_of_file)
    assert (
        read_reference(
            tmp_path / "band.wav", LATENTS, samples=22_051, encoder=encoder, sha256=sha256_of_file
        ).latents.shape[-1]
        == 6
    )


def test_silence_is_no_hindrance(tmp_path):
    write_audio(tmp_path / "rest.wav", np.zeros((2, 48_000), np.float32), 48_000)
    assert (
        read_reference(tmp_path / "rest.wav", LATENTS, samples=44_100, encoder=encoder, sha256=sha256_of_file)
        .latents.isfinite()
        .all()
    )

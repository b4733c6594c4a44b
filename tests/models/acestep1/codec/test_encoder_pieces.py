"""The encoder piece by piece: the whole clip's latents but for rounding, whatever the length of a piece."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.bases import ACE_STEP_1
from models.acestep1.codec.codec import MEL_FRAMES, Codec, CodecConfig
from models.acestep1.codec.encoder_pieces import context_of, cut
from models.acestep1.sizes import PUBLISHED
from models.loading.acestep1 import open_codec
from models.loading.checkpoint import TINY
from models.loading.weights import network_config

LATENTS = ACE_STEP_1.latents

FRAMES = 40
ROUNDING = 1e-5
"""What pieces may change, of latents with a deviation of about 1."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    return open_codec(TINY, encoder=True, decoder=False)


@pytest.fixture(scope="module")
def music() -> Tensor:
    """Four notes a second over noise, [2, N]; the last frame is not full."""
    t = torch.arange(FRAMES * LATENTS.frame_samples - 100) / LATENTS.sample_rate_hz
    notes = torch.sin(440 * math.pi * (1 + (4 * t).floor() % 5 / 4) * t) * torch.exp(-4 * (t % 0.25))
    return 0.3 * notes + 0.02 * torch.randn(2, t.numel(), generator=torch.Generator().manual_seed(0))


@given(frames=st.integers(1, 3000), longest=st.integers(1, 400), context=st.integers(0, 20))
def test_pieces_cover_every_frame_once_and_read_what_context_there_is(frames, longest, context):
    pieces = cut(frames, longest, context)
    assert [frame for piece in pieces for frame in range(piece.start, piece.end)] == list(range(frames))
    lengths = {piece.end - piece.start for piece in pieces}
    assert max(lengths) <= longest
    assert max(lengths) - min(lengths) <= 1
    every_frame = torch.arange(frames)
    for piece in pieces:
        assert piece.read == slice(max(piece.start - context, 0), min(piece.end + context, frames))
        assert piece.kept(every_frame[piece.read]).tolist() == list(range(piece.start, piece.end))


@pytest.mark.parametrize("longest", [1, 7, 20, FRAMES - 1])
def test_pieces_change_no_more_than_rounding(codec, music, longest):
    whole = codec.encode(music, longest=FRAMES)
    found = codec.encode(music, longest=longest)
    torch.testing.assert_close(found, whole, rtol=0, atol=ROUNDING)
    assert torch.equal(codec.encode(music, longest=longest), found)


def test_a_clip_no_longer_than_a_piece_is_encoded_in_one(codec, music):
    assert torch.equal(codec.encode(music, longest=FRAMES), codec.encode(music, longest=10 * FRAMES))


def test_no_layer_sees_more_than_a_piece_and_its_context(codec, music):
    longest, widths = 8, dict[str, int]()

    def note(name):
        return lambda _, inputs: widths.update({name: max(inputs[0].shape[-1], widths.get(name, 0))})

    (attention, glu), first = codec.encoder.down_blocks[-1][0].children(), codec.encoder.conv_in
    watched = {"mel": first, "attention": attention.to_qkv_multiscale[0].proj_in, "glu": glu.conv_depth}
    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in watched.items()]
    codec.encode(music, longest=longest)
    for hook in hooks:
        hook.remove()
    context = context_of(codec.encoder)
    assert widths == {"mel": (longest + 2 * context) * MEL_FRAMES, "attention": longest + 4, "glu": longest + 2}


def test_the_published_encoder_reads_six_frames_on_either_side():
    with torch.device("meta"):
        published = Codec(network_config(CodecConfig, PUBLISHED.codec, "published"), encoder=True, decoder=False)
    assert published.encoder is not None
    assert context_of(published.encoder) == 6


@pytest.mark.parametrize("longest", [11, FRAMES])
def test_bfloat16_weights_give_nearly_the_same_latents_in_float32(codec, music, longest):
    rounded = open_codec(TINY, encoder=True, decoder=False).to(torch.bfloat16)
    found, exact = rounded.encode(music, longest=longest), codec.encode(music)
    assert found.dtype == torch.float32
    assert 1e-4 < (found - exact).square().mean().sqrt() < 0.04 * exact.std()

"""How waves become latents: in pieces, at a precision, and a long vocal in the memory of a segment."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch

from common.audio.wave import read_audio
from common.bases import ACE_STEP_1, ACE_STEP_15
from common.errors import UserError
from models.acestep1.codec.codec import LONGEST_PIECE
from models.acestep15.codec import OobleckCodec, OobleckConfig
from models.loading.checkpoint import TINY
from prep.building.vocal import encode_vocal
from prep.building.workers import torch_threads
from prep.config import EncodeConfig, load_prep_config
from prep.encoding.encode import SongEncoder, encode_wave, open_encoder
from prep.sources.scan import scan
from shards.reader import read_song

FLOAT16_STEP = 2.0**-9
"""Of latents from 2 to 4, the greatest there are here."""


def test_prep_encodes_as_long_pieces_as_the_codec_does_for_others():
    assert EncodeConfig().piece_frames(ACE_STEP_1.latents) == LONGEST_PIECE


def test_pieces_leave_the_same_shards_but_for_rounding_whatever_the_workers(tmp_path, song, build, config, hashes):
    for seed, key in enumerate("ab"):
        song(tmp_path / "raw", key, seconds=4.0, seed=seed)
    build("whole")
    pieces = config.model_copy(update={"encode": EncodeConfig(piece_seconds=1.0)})
    build("pieces", config=pieces)
    build("again", config=pieces, workers=2)
    assert hashes(tmp_path / "pieces") == hashes(tmp_path / "again")
    for key in "ab":
        (whole,), (found,) = (read_song(tmp_path / out, key) for out in ("whole", "pieces"))
        for part in ("vocal", "inst", "mix"):
            np.testing.assert_allclose(found.arrays()[part], whole.arrays()[part], rtol=0, atol=FLOAT16_STEP)
            assert np.mean(found.arrays()[part] != whole.arrays()[part]) < 0.02


@pytest.mark.parametrize(
    ("encode", "change"),
    [
        (EncodeConfig(piece_seconds=30.0), "encode.piece_seconds was 20.0, is 30.0"),
        (EncodeConfig(precision="bf16"), "encode.precision was fp32, is bf16"),
    ],
)
def test_a_changed_way_of_encoding_names_itself_and_needs_rebuild(tmp_path, song, build, config, encode, change):
    song(tmp_path / "raw", "a")
    build()
    changed = config.model_copy(update={"encode": encode})
    with pytest.raises(UserError) as raised:
        build(config=changed)
    assert str(raised.value) == f"these shards were built otherwise: {change}. Use --rebuild, or another folder."
    assert len(build(config=changed, rebuild=True).encoded) == 3


def test_bf16_latents_are_close_to_those_of_fp32(music):
    wave = music(2.0).mix
    with torch_threads(1):
        exact, rounded, again = (
            encode_wave(open_encoder(TINY, EncodeConfig(precision=precision), "cpu"), wave).astype(np.float32)
            for precision in ("fp32", "bf16", "bf16")
        )
    assert 1e-4 < np.sqrt(np.mean((rounded - exact) ** 2)) < 0.04 * exact.std()
    np.testing.assert_array_equal(rounded, again)


def test_a_device_without_bf16_is_one_line(monkeypatch):
    convolve = torch.nn.functional.conv2d

    def refuse(wave, *rest):
        if wave.dtype == torch.bfloat16:
            raise RuntimeError("conv2d: no BFloat16 here\nException raised from conv2d at ...")
        return convolve(wave, *rest)

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    open_encoder(TINY, EncodeConfig(), "cpu")
    with pytest.raises(UserError) as raised:
        open_encoder(TINY, EncodeConfig(precision="bf16"), "cpu")
    assert str(raised.value) == (
        "encode.precision bf16: cannot be used on cpu (conv2d: no BFloat16 here). Use fp32, or another --device."
    )


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("encode.piece_seconds=0.5", "prep_base: encode.piece_seconds: Input should be greater than or equal to 1"),
        ("encode.precision=fp16", "prep_base: encode.precision: Input should be 'fp32' or 'bf16', got 'fp16'"),
        ("encode.overlap=2", "prep_base: unknown key encode.overlap"),
    ],
)
def test_a_wrong_setting_is_one_line(setting, complaint):
    with pytest.raises(UserError) as raised:
        load_prep_config("prep_base", [setting])
    assert str(raised.value).startswith(complaint)
    assert "\n" not in str(raised.value)


@pytest.fixture
def encode(tmp_path, song):
    """encode(seconds) makes shards of a vocal of that length, in segments of 5 s or less."""

    def run(seconds):
        song(tmp_path, f"v{seconds}", parts=("vocal",), seconds=seconds)
        config = load_prep_config("prep_base", ["segment.max_seconds=5", "segment.search_seconds=0.5"])
        vocal, out = tmp_path / f"v{seconds}_vocal.wav", tmp_path / f"out{seconds}"
        tracemalloc.start()
        encode_vocal(vocal, out, config, vocal_lufs=-20.0, checkpoint="tiny", device="cpu", prompt=None, lyrics=None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, read_audio(vocal).samples, read_song(out, f"v{seconds}")

    return run


def test_a_vocal_of_any_length_is_encoded_whole_in_the_memory_of_a_segment(encode):
    short, _, _ = encode(20)
    long, wave, segments = encode(60)
    assert long < 1.3 * short
    assert long < wave.nbytes
    assert sum(segment.meta.samples for segment in segments) == wave.shape[1]
    for earlier, later in pairwise(segments):
        assert earlier.meta.start_seconds + earlier.meta.seconds == pytest.approx(later.meta.start_seconds)
        assert earlier.meta.gain_db == later.meta.gain_db


def test_a_song_is_cut_and_measured_at_the_rate_and_frames_of_the_codecs_base_model(tmp_path, song, config):
    """48 kHz and 25 frames a second, of a song at 44.1 kHz; what the codec makes has as many frames."""
    seconds, layout = 1.5, ACE_STEP_15.latents
    song(tmp_path, "a", seconds=seconds)
    shape = OobleckConfig(downsampling_ratios=(40, 48), channel_multiples=(1, 1), sampling_rate=48_000)
    codec = OobleckCodec(shape, encoder=True, decoder=False).requires_grad_(False)
    encoder = SongEncoder(config, codec, None)
    with encoder.prepare(scan(tmp_path).songs[0]) as prepared:
        (segment,) = prepared.segments
        samples = segment.span.end - segment.span.start
        assert {wave.rate_hz for wave in prepared.tracks.waves.values()} == {layout.sample_rate_hz}
        assert abs(samples - seconds * layout.sample_rate_hz) < layout.frame_samples
        assert len(segment.activity) == layout.frames_of(samples) in (37, 38)
        vocal = prepared.tracks.part("vocal", segment.span)[:, : 10 * layout.frame_samples]
        latents = encode_wave(codec, vocal)
    assert (latents.shape, latents.dtype) == ((layout.channels, layout.rows, 10), np.float16)

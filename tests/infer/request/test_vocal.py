import re
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from common.audio.disk_wave import DiskWave
from common.audio.wave import (
    loudness_lufs,
    read_audio,
    stereo_at,
    to_stereo,
    vocal_activity,
    vocal_gain,
    write_audio,
)
from common.bases import ACE_STEP_1, BASES, BaseSpec
from common.canonical import sha256_of_file
from common.errors import UserError
from infer.audio.decoded import encode
from infer.request.vocal import vocal_from_file, vocal_from_shards
from models.flow.windows import plan_windows
from models.loading.checkpoint import TINY, open_codec
from shards.reader import read_song

LATENTS = ACE_STEP_1.latents

CPU = torch.device("cpu")


def from_file(path, lufs=-20.0, latents=LATENTS):
    encoder = partial(open_codec, TINY, encoder=True, decoder=False)
    return vocal_from_file(path, latents, encoder=encoder, sha256=sha256_of_file, lufs=lufs)


def test_a_file_is_levelled_as_training_vocals_and_encoded(vocal_file):
    given = stereo_at(read_audio(vocal_file), 44_100)
    expected = given * vocal_gain(lambda: [given], LATENTS.sample_rate_hz, -23.0, samples=given.shape[1]).factor
    with from_file(vocal_file, lufs=-23.0) as vocal:
        assert vocal.key == "ballad"
        wave = vocal.wave.read(0, vocal.samples)
        assert loudness_lufs(wave, LATENTS.sample_rate_hz) == pytest.approx(-23.0, abs=1e-3)
        np.testing.assert_array_equal(wave, expected)
        with torch.no_grad():
            latents = open_codec(TINY, encoder=True, decoder=False).encode(torch.from_numpy(wave))
        torch.testing.assert_close(vocal.latents, latents, rtol=0, atol=0)
        np.testing.assert_array_equal(vocal.activity.numpy(), vocal_activity(wave, ACE_STEP_1.latents))
        assert (vocal.record.lufs, vocal.record.seconds) == (-23.0, 1.5)


@pytest.mark.parametrize("spec", BASES.values(), ids=lambda spec: spec.name)
def test_the_activity_of_a_long_vocal_lies_over_its_latent_frames(tmp_path, spec: BaseSpec, monkeypatch):
    """Blocks of the disk end where they end; each frame counts once, in its place."""
    layout = spec.latents
    monkeypatch.setattr("infer.request.vocal.encode", lambda wave, codec: torch.zeros(0))
    rng = np.random.default_rng(0)
    samples = 14 * layout.sample_rate_hz
    steps = np.repeat(rng.uniform(0.001, 0.3, samples // 700 + 1), 700)[:samples]
    write_audio(
        tmp_path / "me.wav", (rng.standard_normal((2, samples)) * steps).astype(np.float32) * 0.2, layout.sample_rate_hz
    )
    with from_file(tmp_path / "me.wav", -40.0, layout) as vocal:
        expected = vocal_activity(vocal.wave.read(0, vocal.samples), layout)
    assert expected.std() > 0.01
    np.testing.assert_array_equal(vocal.activity.numpy(), expected)


def test_only_the_level_of_the_file_is_changed(vocal_file):
    plain = stereo_at(read_audio(vocal_file), 44_100)
    with from_file(vocal_file) as vocal:
        wave = vocal.wave.read(0, vocal.samples)
    np.testing.assert_allclose(wave / np.abs(wave).max(), plain / np.abs(plain).max(), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000, 96_000])
def test_lengths_follow_the_file(tmp_path, make_voice, rate_hz):
    samples = make_voice(0.7, rate_hz)[:, :-3]
    write_audio(tmp_path / "a.wav", to_stereo(samples), rate_hz)
    with from_file(tmp_path / "a.wav") as vocal:
        assert vocal.output_samples == round(samples.shape[1] * 48_000 / rate_hz)
        assert vocal.latents.shape == (8, 16, LATENTS.frames_of(vocal.samples))
        assert vocal.activity.shape == (LATENTS.frames_of(vocal.samples),)


def test_joined_files_are_read_to_their_end(tmp_path, make_voice):
    """Their header knows of the first alone."""
    soundfile.write(tmp_path / "once.mp3", make_voice(0.7, 44_100).T, 44_100)
    (tmp_path / "twice.mp3").write_bytes(2 * (tmp_path / "once.mp3").read_bytes())
    with from_file(tmp_path / "once.mp3") as once, from_file(tmp_path / "twice.mp3") as twice:
        assert twice.samples == 2 * once.samples == 2 * round(0.7 * 44_100)


@pytest.mark.parametrize(
    ("seconds", "level", "message"),
    [
        (0.2, 1.0, "short.wav: 0.20 s is shorter than one loudness block (0.4 s)."),
        (1.0, 0.0, "short.wav: this vocal is silent (peak -inf dBFS). Give one that can be heard."),
    ],
)
def test_a_vocal_that_cannot_be_used_says_why(tmp_path, make_voice, seconds, level, message):
    write_audio(tmp_path / "short.wav", level * make_voice(seconds, 8000), 8000)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"), from_file(tmp_path / "short.wav"):
        pass


def test_a_wave_on_the_disk_is_encoded_as_in_memory():
    """Longer than what the codec takes at once, whole or only its first frames."""
    wave = 0.1 * np.random.default_rng(0).standard_normal((2, 240 * LATENTS.frame_samples - 100)).astype(np.float32)
    codec = open_codec(TINY, encoder=True, decoder=False)
    with DiskWave(44_100) as on_disk, torch.no_grad():
        on_disk.append(wave)
        assert torch.equal(encode(on_disk, codec), codec.encode(torch.from_numpy(wave)))
        first = codec.encode(torch.from_numpy(wave[:, : 40 * LATENTS.frame_samples]))
        assert torch.equal(encode(on_disk, codec, frames=40), first)


def test_segments_of_a_song_lie_end_to_end(shards):
    segments = read_song(shards, "ballad")
    vocal = vocal_from_shards(shards, "ballad", segments, 44_100)
    assert vocal.latents.shape == (8, 16, 6 + 4)
    np.testing.assert_array_equal(vocal.latents[..., 6:].numpy(), segments[1].vocal.astype(np.float32))
    np.testing.assert_array_equal(vocal.activity[:6].numpy(), segments[0].activity.astype(np.float32))
    assert vocal.samples == (6 + 4) * 4096 - 100
    assert vocal.output_samples == round(vocal.samples * 48_000 / 44_100)
    assert vocal.record.segments == ("ballad_000", "ballad_001")


def test_a_song_may_be_longer_than_the_network_takes_at_once(shards):
    vocal = vocal_from_shards(shards, "hymn", read_song(shards, "hymn"), 44_100)
    assert vocal.latents.shape[-1] == 2700
    assert len(plan_windows(2700, longest=ACE_STEP_1.longest_frames)) == 2

import math
import subprocess
import time

import imageio_ffmpeg
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import torchaudio.functional
from hypothesis import given
from hypothesis import strategies as st

from common.audio.decode import audio_stream
from common.audio.wave import (
    gain_to,
    loudness_lufs,
    peak_dbfs,
    read_audio,
    resample,
    resample_blocks,
    stereo_at,
    stereo_blocks_at,
    to_stereo,
    vocal_activity,
    vocal_gain,
    write_audio,
)
from common.bases import ACE_STEP_1
from common.errors import UserError

LATENTS = ACE_STEP_1.latents


def sine(seconds=1.0, *, hz=440.0, rate_hz=44_100, level_dbfs=-12.0):
    """A stereo sine whose RMS is `level_dbfs`."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = np.sqrt(2) * 10 ** (level_dbfs / 20) * np.sin(2 * np.pi * hz * t)
    return np.stack([wave, wave]).astype(np.float32)


@pytest.fixture
def no_ffmpeg(monkeypatch):
    def missing():
        raise RuntimeError("no ffmpeg")

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_writing_what_was_read_changes_no_sample(tmp_path, suffix, subtype):
    write_audio(tmp_path / f"a{suffix}", sine(0.2), 44_100, subtype=subtype)
    once = read_audio(tmp_path / f"a{suffix}")
    write_audio(tmp_path / f"b{suffix}", once.samples, once.rate_hz, subtype=subtype)
    np.testing.assert_array_equal(read_audio(tmp_path / f"b{suffix}").samples, once.samples)
    np.testing.assert_allclose(once.samples, sine(0.2), atol=1 / 32768)


def test_integer_files_hold_the_nearest_step_and_clip_at_full_scale(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([[0.5, 3 / 32768, 1.5, -1.5]], np.float32), 8000, subtype="PCM_16")
    steps, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert steps.tolist() == [16384, 3, 32767, -32768]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, sine(0.1), 44_100)
    before = path.read_bytes()
    with pytest.raises(soundfile.LibsndfileError):
        write_audio(path, np.zeros((2000, 4), np.float32), 44_100)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("missing", [1, 30, 3000, 40_000])
def test_a_clip_that_finds_no_room_is_one_line_and_keeps_the_old_file(tmp_path, full_disk, suffix, missing):
    path, clip = tmp_path / f"a{suffix}", np.random.default_rng(0).normal(size=(2, 20_000)).astype(np.float32) * 0.1
    write_audio(path, clip, 44_100)
    before = path.read_bytes()
    with full_disk(len(before) - missing), pytest.raises(UserError) as caught:
        write_audio(path, clip, 44_100)
    assert str(caught.value) == f"{path}: cannot be written (the disk refuses, or is full)."
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("samples", [0, 1, 2, 4095, 4096, 4097])
def test_a_clip_of_any_length_finds_room(tmp_path, suffix, samples):
    write_audio(tmp_path / f"a{suffix}", np.zeros((1, samples), np.float32), 44_100)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.mp3: audio is written as \.wav or \.flac, not \.mp3\."):
        write_audio(tmp_path / "a.mp3", sine(0.1), 44_100)


def test_blocks_join_to_the_whole_file(tmp_path):
    write_audio(tmp_path / "a.flac", sine(0.5), 44_100)
    with audio_stream(tmp_path / "a.flac", block_samples=1000) as stream:
        blocks = list(stream.blocks)
    assert {block.shape[1] for block in blocks[:-1]} == {1000}
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), read_audio(tmp_path / "a.flac").samples)


def test_ffmpeg_reads_what_soundfile_cannot(tmp_path):
    write_audio(tmp_path / "a.wav", sine(1.0), 44_100)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "alac"]
    subprocess.run([*command, tmp_path / "é 音.m4a"], check=True)
    read = read_audio(tmp_path / "é 音.m4a")
    assert (read.rate_hz, read.samples.shape) == (44_100, (2, 44_100))
    np.testing.assert_allclose(read.samples, sine(1.0), atol=2 / 32768)


def write_flac(path):
    write_audio(path, np.random.default_rng(0).normal(0, 0.1, (2, 44_100)).astype(np.float32), 44_100)
    return path.read_bytes()


def test_a_bad_file_says_what_is_wrong_with_it(tmp_path):
    whole = write_flac(tmp_path / "whole.flac")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 44_100)
    soundfile.write(tmp_path / "long.mp3", np.zeros(44_100), 44_100)
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.mp3").write_bytes((tmp_path / "long.mp3").read_bytes()[:2000])
    (tmp_path / "text.wav").write_text("la la la")
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "folder.wav").mkdir()
    complaints = {}
    for name in ["nan.wav", "none.wav", "cut.flac", "cut.mp3", "text.wav", "empty.mp3", "folder.wav", "missing.wav"]:
        with pytest.raises(UserError) as raised:
            read_audio(tmp_path / name)
        complaints[name] = str(raised.value)
    assert complaints == {
        "nan.wav": "nan.wav: holds NaN or infinite samples. Export it again.",
        "none.wav": "none.wav: holds no audio (0 samples).",
        "cut.flac": "cut.flac: damaged (flac decoder lost sync). Export it again.",
        "cut.mp3": complaints["cut.mp3"],
        "text.wav": "text.wav: cannot be decoded as audio (Invalid data found when processing input).",
        "empty.mp3": "empty.mp3: is empty (0 bytes).",
        "folder.wav": "folder.wav: is not a file.",
        "missing.wav": "missing.wav: no such file.",
    }
    assert complaints["cut.mp3"].startswith("cut.mp3: cut short, it ends after 0.")
    assert complaints["cut.mp3"].endswith(" s of 1.04 s. Export it again.")


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_the_error_names_the_format(tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A ")
    with pytest.raises(UserError, match=r"^a\.m4a: \.m4a needs ffmpeg, which is not on PATH \(soundfile says: .*\)\.$"):
        read_audio(tmp_path / "a.m4a")


@pytest.mark.parametrize("channels", range(1, 10))
def test_stereo_of_any_channel_count_stays_within_full_scale(channels):
    loud = np.ones((channels, 5), np.float32)
    assert to_stereo(loud).shape == (2, 5)
    assert np.abs(to_stereo(loud)).max() <= 1.0 + 1e-6


def test_stereo_keeps_sides_apart():
    left, right, lfe = np.eye(6, dtype=np.float32)[[0, 1, 3]]
    surround = np.stack([left, right, np.zeros(6), lfe, np.zeros(6), np.zeros(6)]).astype(np.float32)
    folded = to_stereo(surround)
    assert folded[0, 0] > 0
    assert folded[1, 0] == 0
    assert folded[1, 1] > 0
    assert not folded[:, 3].any()


@given(samples=st.integers(1, 3000), rate_hz=st.sampled_from([8000, 16_000, 22_050, 32_000, 48_000, 96_000, 192_000]))
def test_resampled_length_is_rounded_up(samples, rate_hz):
    resampled = resample(np.zeros((1, samples), np.float32), rate_hz, 44_100)
    assert resampled.shape[1] == math.ceil(samples * 44_100 / rate_hz)


@pytest.mark.parametrize("rate_hz", [22_050, 48_000, 44_101])
def test_resampling_keeps_a_sine(rate_hz):
    resampled = resample(sine(0.5, rate_hz=rate_hz), rate_hz, 44_100)
    expected = sine(0.5)
    np.testing.assert_allclose(resampled[:, 2000:-2000], expected[:, 2000 : resampled.shape[1] - 2000], atol=1e-3)


def test_codec_rate_takes_mono_at_any_rate(tmp_path):
    write_audio(tmp_path / "a.wav", sine(0.5, rate_hz=32_000)[:1], 32_000)
    samples = stereo_at(read_audio(tmp_path / "a.wav"), 44_100)
    assert samples.shape == (2, LATENTS.sample_rate_hz // 2)
    np.testing.assert_array_equal(samples[0], samples[1])


def test_loudness_follows_the_standard():
    """BS.1770: a 997 Hz sine of 0 dBFS peak in one channel reads -3.01 LUFS; two channels read 3.01 more."""
    assert loudness_lufs(sine(2.0, hz=997, level_dbfs=-20.0), 44_100) == pytest.approx(-17.0, abs=0.1)
    assert loudness_lufs(np.zeros((2, 44_100), np.float32), 44_100) == -math.inf


def test_a_clip_under_one_block_has_no_loudness():
    with pytest.raises(UserError, match=r"^0\.30 s is shorter than one loudness block \(0\.4 s\)\.$"):
        loudness_lufs(sine(0.3), 44_100)


def level_vocal(vocal, target):
    return vocal * vocal_gain(lambda: [vocal], 44_100, target, samples=vocal.shape[1]).factor


@given(level_dbfs=st.floats(-45, -3), target=st.floats(-40, -10))
def test_levelled_vocals_meet_the_target_or_the_ceiling(level_dbfs, target):
    vocal = sine(0.5, level_dbfs=level_dbfs)
    levelled = level_vocal(vocal, target)
    at_ceiling = peak_dbfs(levelled) == pytest.approx(-1.0, abs=1e-3)
    assert peak_dbfs(levelled) <= -1.0 + 1e-3
    assert at_ceiling or loudness_lufs(levelled, 44_100) == pytest.approx(target, abs=1e-3)


def test_gain_says_when_the_peak_set_it():
    assert gain_to(-14.0, lufs=-20.0, peak=-10.0).db == pytest.approx(6.0)
    assert not gain_to(-14.0, lufs=-20.0, peak=-10.0).peak_limited
    limited = gain_to(-14.0, lufs=-20.0, peak=-3.0)
    assert (limited.db, limited.peak_limited) == (2.0, True)


def test_a_silent_vocal_cannot_be_levelled():
    with pytest.raises(UserError, match=r"^this vocal is silent \(peak -inf dBFS\)\. Give one that can be heard\.$"):
        level_vocal(np.zeros((2, 44_100), np.float32), -14.0)


def test_activity_is_linear_between_its_two_levels():
    levels = [-60.0, -50.0, -47.5, -45.0, -42.0, -40.0, -20.0]
    frame = LATENTS.frame_samples / LATENTS.sample_rate_hz
    vocal = np.concatenate([sine(frame, hz=10 / frame, level_dbfs=level) for level in levels], axis=1)
    np.testing.assert_allclose(vocal_activity(vocal, ACE_STEP_1.latents), [0, 0, 0.25, 0.5, 0.8, 1, 1], atol=1e-3)
    assert vocal_activity(vocal[:, :-1], ACE_STEP_1.latents).shape == (7,)
    assert vocal_activity(vocal[:, : LATENTS.frame_samples + 1], ACE_STEP_1.latents).shape == (2,)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 44_101, 48_000, 192_000])
def test_resampling_in_blocks_gives_the_same_bits(rate_hz):
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 300_000)).astype(np.float32)
    whole = resample(wave, rate_hz, 44_100)
    cut = [wave[:, :1], wave[:, 1:77_777], wave[:, 77_777:]]
    np.testing.assert_array_equal(np.concatenate(list(resample_blocks(cut, rate_hz, 44_100)), axis=1), whole)


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 48_000, 192_000])
def test_resampling_is_torchaudios(rate_hz):
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 300_000)).astype(np.float32)
    expected = torchaudio.functional.resample(torch.from_numpy(wave), rate_hz, 44_100).numpy()
    np.testing.assert_allclose(resample(wave, rate_hz, 44_100), expected, atol=1e-6)


def test_an_odd_rate_is_resampled_without_seams():
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 300_000)).astype(np.float32)
    expected = scipy.signal.resample_poly(wave, 44_100, 44_101, axis=1)
    np.testing.assert_allclose(resample(wave, 44_101, 44_100), expected, atol=1e-6)


def test_stereo_blocks_at_are_the_whole_file(tmp_path):
    write_audio(tmp_path / "a.wav", np.tile(sine(2.0, rate_hz=48_000), (3, 1)), 48_000)
    with audio_stream(tmp_path / "a.wav", block_samples=1000) as stream:
        streamed = np.concatenate(list(stereo_blocks_at(stream, 44_100)), axis=1)
    np.testing.assert_array_equal(streamed, stereo_at(read_audio(tmp_path / "a.wav"), 44_100))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_wav_of_floats_does_not_say_when_it_was_written(tmp_path, channels):
    wave = np.linspace(-1, 1, 1000 * channels, dtype=np.float32).reshape(channels, -1)
    write_audio(tmp_path / "ours.wav", wave, 44_100, subtype="FLOAT")
    soundfile.write(tmp_path / "theirs.wav", wave.T, 44_100, subtype="FLOAT")
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("ours.wav", "theirs.wav"))
    written = int.from_bytes(theirs[(at := theirs.index(b"PEAK") + 12) : at + 4], "little")
    assert abs(written - time.time()) < 60
    assert ours == theirs[:at] + bytes(4) + theirs[at + 4 :]
    np.testing.assert_array_equal(read_audio(tmp_path / "ours.wav").samples, wave)

"""Songs to shards with the tiny bundle: what the shards hold, and which songs do not get in."""

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from common.audio.disk_wave import DiskWave
from common.audio.wave import loudness_lufs, read_audio
from common.bases import ACE_STEP_1
from common.errors import UserError
from models.loading.checkpoint import TINY, open_codec
from models.separator import find_separator, open_separator
from prep.building.augmented import song_seconds
from prep.building.build import build_shards, equip
from prep.building.workers import torch_threads
from prep.config import PrepConfig, SegmentConfig, TextConfig
from prep.encoding.encode import SongEncoder, encode_wave
from prep.encoding.separated import SongSeparator
from prep.sources.scan import Scan, scan
from prep.sources.segment import SampleSpan
from prep.sources.sound import SoundHash
from shards.reader import read_manifest, read_shard, read_song
from shards.verify import verify

LATENTS = ACE_STEP_1.latents


def rejected(folder):
    rows = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    return {row["key"]: (row["reason"], row["detail"]) for row in rows}


def test_samples_hold_what_the_codec_makes_of_the_levelled_parts(tmp_path, song, build):
    song(tmp_path / "raw", "pair", parts=("vocal", "mix"), seconds=2.0)
    build()
    (sample,) = read_song(tmp_path / "shards", "pair")
    meta = sample.meta
    waves = {part: read_audio(tmp_path / "raw" / f"pair_{part}.wav").samples for part in ("vocal", "mix")}
    waves["inst"] = waves["mix"] - waves["vocal"]
    start, factor = round(meta.start_seconds * LATENTS.sample_rate_hz), np.float32(10 ** (meta.gain_db / 20))
    codec = open_codec(TINY, encoder=True, decoder=False)
    for part, wave in waves.items():
        levelled = wave[:, start : start + meta.samples] * factor
        with torch_threads(1):
            np.testing.assert_array_equal(sample.arrays()[part], encode_wave(codec, levelled))
    assert loudness_lufs(waves["mix"][:, start:] * factor, LATENTS.sample_rate_hz) == pytest.approx(-14.0, abs=0.05)
    assert (meta.derived, meta.separator, meta.residual_db) == ("inst", None, None)
    assert not meta.is_separated
    assert (meta.prompt, meta.lyrics, meta.name, len(meta.tag_orders)) == (
        "folk, guitar, slow",
        "[instrumental]",
        "pair",
        4,
    )
    assert [(s.part, s.file) for s in meta.sources] == [("mix", "pair_mix.wav"), ("vocal", "pair_vocal.wav")]
    assert meta.sources[0].sha256 == hashlib.sha256((tmp_path / "raw" / "pair_mix.wav").read_bytes()).hexdigest()
    assert 0.3 < sample.activity.mean() < 0.95


def test_joined_files_are_kept_to_their_end(tmp_path, music, build):
    """Their headers know of the first alone; a plan counts what a build keeps."""
    parts = music(1.5)
    (tmp_path / "raw").mkdir()
    for part in ("vocal", "mix"):
        path = tmp_path / "raw" / f"pair_{part}.mp3"
        soundfile.write(path, getattr(parts, part).T, LATENTS.sample_rate_hz)
        path.write_bytes(2 * path.read_bytes())
    build()
    samples = read_song(tmp_path / "shards", "pair")
    assert samples[-1].meta.start_seconds + samples[-1].meta.seconds == pytest.approx(3.0, abs=0.05)
    (found,) = scan(tmp_path / "raw").songs
    assert song_seconds(found) == pytest.approx(3.0, abs=0.05)


def test_a_full_song_is_separated_into_parts_that_sum_to_it(tmp_path, song, config):
    song(tmp_path, "full", parts=("song",))
    (full,) = scan(tmp_path).songs
    files = find_separator("auto", TINY)
    assert files is not None
    separator = open_separator(files, torch.device("cpu"), overlap=config.separator.overlap)
    encoder = SongEncoder(
        config, open_codec(TINY, encoder=True, decoder=False), SongSeparator(files.name, lambda: separator)
    )
    tracks = encoder.tracks(full, lambda rate_hz=44_100: DiskWave(rate_hz), SoundHash(full))
    parts = tracks.piece(SampleSpan(0, tracks.samples))
    np.testing.assert_array_equal(parts.mix, read_audio(tmp_path / "full.wav").samples)
    np.testing.assert_array_equal(parts.inst, parts.mix - parts.vocal)
    assert (tracks.separator, tracks.derived) == ("tiny", "inst")
    assert np.abs(parts.vocal).max() > 0.01


def test_a_build_counts_levels_and_statistics(tmp_path, song, build):
    song(tmp_path / "raw", "a", seed=1)
    song(tmp_path / "raw", "b", parts=("song",), seed=2, prompt=None)
    report = build()
    manifest = read_manifest(tmp_path / "shards")
    assert report.manifest == manifest
    assert (report.kept, report.rejections) == (2, ())
    separated = {key: read_song(tmp_path / "shards", key)[0].meta.is_separated for key in "ab"}
    assert separated == {"a": False, "b": True}
    assert set(manifest.fingerprint.networks) == {"demucs", "music_dcae_f8c8", "umt5-base"}
    assert manifest.statistics is not None
    assert min(manifest.statistics.std) > 0
    samples = [sample for shard in manifest.shards for sample in read_shard(tmp_path / "shards", shard)]
    levels = [sample.meta.lufs.vocal + sample.meta.gain_db for sample in samples if sample.meta.lufs.vocal is not None]
    assert manifest.vocal_lufs == pytest.approx(np.median(levels))
    assert samples[1].meta.prompt == "instrumental"
    assert verify(tmp_path / "shards") == []
    assert {path.name for path in (tmp_path / "shards" / ".build").iterdir()} == {"known.json", "manifest.json"}


def test_long_songs_become_several_samples_that_follow_each_other(tmp_path, song, build, config):
    song(tmp_path / "raw", "long", seconds=5.0)
    segment = SegmentConfig(max_seconds=2.0, min_seconds=0.5, search_seconds=0.5)
    build(config=config.model_copy(update={"segment": segment}))
    samples = read_song(tmp_path / "shards", "long")
    assert [sample.meta.key for sample in samples] == [f"long_{number:03d}" for number in range(len(samples))]
    assert len(samples) >= 3
    for earlier, later in pairwise(samples):
        assert earlier.meta.start_seconds + earlier.meta.seconds == pytest.approx(later.meta.start_seconds)
        assert earlier.meta.seconds <= 2.0


def test_bad_songs_leave_the_good_ones_as_they_would_be_alone(tmp_path, song, build, config, hashes):
    for folder in ("good", "raw"):
        song(tmp_path / folder, "good1", seed=1)
        song(tmp_path / folder, "good2", parts=("vocal", "mix"), seed=2)
    raw = tmp_path / "raw"
    song(raw, "all", parts=("song",))
    song(raw, "lone", parts=("vocal",))
    song(raw, "short", seconds=0.7)
    song(raw, "unsung", parts=("inst", "mix"))
    (raw / "unsung_mix.wav").write_bytes((raw / "unsung_inst.wav").read_bytes())
    song(raw, "late", parts=("vocal",), seed=4)
    song(raw, "late", parts=("mix",), seed=4, seconds=3.0)
    (raw / "text.mp3").write_text("la la la")
    (raw / "gone.wav").symlink_to(raw / "nowhere.wav")
    (raw / "empty_vocal.wav").touch()
    (raw / "empty_mix.wav").touch()
    none = config.model_copy(update={"separator": config.separator.model_copy(update={"name": "none"})})
    report = build(config=none)
    build("alone", raw="good", config=none)
    assert report.kept == 2
    assert rejected(tmp_path / "shards") == {
        "all": ("no_separator", "all.wav: a full song, but separator.name is none. Add its stems."),
        "empty": ("unreadable", "empty_mix.wav: is empty (0 bytes)."),
        "gone": ("unreadable", "gone.wav: no such file."),
        "late": ("misaligned", "its files differ in length by 1.50 s (at most 0.5 s is allowed)."),
        "lone": ("orphan_stem", "lone_vocal.wav: one stem alone. Add the mix or the other stem."),
        "short": (
            "too_short",
            "0.70 s without its outer silence is shorter than segment.min_seconds (1 s).",
        ),
        "text": ("no_separator", "text.mp3: a full song, but separator.name is none. Add its stems."),
        "unsung": ("no_vocal", "sung for 0.0% of its time, under min_vocal_activity (2.0%)."),
    }
    with_bad, alone = hashes(tmp_path / "shards"), hashes(tmp_path / "alone")
    assert {**with_bad, "rejected.jsonl": ""} == {**alone, "rejected.jsonl": ""}


def test_without_one_good_song_nothing_is_made(tmp_path, song, build):
    song(tmp_path / "raw", "a", parts=("vocal",))
    with pytest.raises(UserError) as raised:
        build()
    assert str(raised.value) == (
        f"none of 1 songs can be used ({tmp_path / 'shards' / 'rejected.jsonl'}); the first, a: "
        "a_vocal.wav: one stem alone. Add the mix or the other stem."
    )
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [".build", "rejected.jsonl"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_real_songs_and_stems_become_shards(tmp_path, shared_audio, config):
    report = build_shards(shared_audio, tmp_path, config, checkpoint="tiny", workers=2, devices=("cpu",), rebuild=False)
    assert (report.kept, report.rejections) == (9, ())
    assert verify(tmp_path) == []
    samples = [sample for shard in report.manifest.shards for sample in read_shard(tmp_path, shard)]
    assert sum(sample.meta.separator == "tiny" for sample in samples) == 4
    residuals = [sample.meta.residual_db for sample in samples]
    assert all(residual is None or residual < -100 for residual in residuals)


def test_a_language_that_cannot_be_read_is_said_before_songs_are_encoded():
    config = PrepConfig(text=TextConfig(lyrics_language="xx"))
    with pytest.raises(UserError, match='lyrics language "xx" is not one of en, de'):
        equip(Scan((), ()), config, checkpoint="tiny", devices=("cpu",), ssl_folder=None)

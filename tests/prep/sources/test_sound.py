"""The hash over a song's sound: of decoded samples, and without decoding a file for it."""

import hashlib
import sys

import pytest

from common.audio import decode
from common.audio.wave import read_audio
from common.canonical import sha256_of
from shards.reader import read_manifest


def sample_hash(path):
    """By the letter: rate and channels, then the samples, one moment after the other."""
    audio = read_audio(path)
    digest = hashlib.sha256(f"{audio.rate_hz} Hz, {audio.samples.shape[0]} channels".encode())
    digest.update(audio.samples.T.tobytes())
    return digest.hexdigest()


@pytest.fixture
def decoded_files(monkeypatch):
    """Names of the files that are opened for decoding, by whatever module."""
    names, opened = [], decode.audio_stream

    def noted(path, **options):
        names.append(path.name)
        return opened(path, **options)

    for module in [module for module in sys.modules.values() if getattr(module, "audio_stream", None) is opened]:
        monkeypatch.setattr(module, "audio_stream", noted)
    return names


def test_every_file_is_decoded_once_and_the_hash_is_of_its_samples(tmp_path, song, build, decoded_files):
    raw = tmp_path / "raw"
    song(raw, "full", parts=("song",), rate_hz=48_000, seconds=8.0)
    song(raw, "pair", parts=("vocal", "inst"), seed=1)
    song(raw, "triple", seed=2)
    build()
    assert sorted(decoded_files) == sorted(path.name for path in raw.glob("*.wav"))
    songs = read_manifest(tmp_path / "shards").songs()
    decoded = {"full": ["full"], "pair": ["pair_inst", "pair_vocal"], "triple": ["triple_mix"]}
    for key, files in decoded.items():
        assert songs[key].sound_sha256 == sha256_of([sample_hash(raw / f"{name}.wav") for name in files])

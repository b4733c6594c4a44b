"""A full song is separated once, for every base model and every pitch; what is kept changes no bytes."""

from pathlib import Path

import numpy as np
import pytest

from common.audio.disk_wave import DiskWave
from common.audio.wave import read_audio, write_audio
from common.errors import UserError
from models.loading.checkpoint import TINY15, open_codec
from models.separator import Separator
from prep.building.build import equip, fingerprint_of
from prep.building.identity import hash_song
from prep.building.separation import vocal_identity
from prep.config import AugmentConfig, PrepConfig, SeparatorConfig
from prep.encoding.encode import SongEncoder
from prep.encoding.separated import SongSeparator, VocalStore
from prep.sources.scan import scan
from prep.sources.segment import SampleSpan
from prep.sources.sound import SoundHash

RATE_HZ = 48_000
NOTHING_KEPT = PrepConfig(separator=SeparatorConfig(keep=False))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that this test's vocals are kept in."""
    monkeypatch.setenv("BACKLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "separated"


@pytest.fixture
def separated(monkeypatch):
    """Lengths of the mixes that went through the network."""
    lengths, vocal = list[int](), Separator.vocal
    monkeypatch.setattr(Separator, "vocal", lambda self, mix: lengths.append(mix.samples) or vocal(self, mix))
    return lengths


def test_two_base_models_separate_a_song_once_and_to_the_bytes_of_a_build_alone(
    tmp_path, song, build, hashes, cache, separated, capsys
):
    song(tmp_path / "raw", "full", parts=("song",))
    build("first")
    (kept,) = cache.iterdir()
    assert f"1 separated vocals will be kept in {cache} (0.00053 GB), so that a build with" in capsys.readouterr().err
    build("second", checkpoint="tiny15")
    assert len(separated) == 1
    assert "kept in" not in capsys.readouterr().err
    build("first_alone", config=NOTHING_KEPT)
    build("second_alone", checkpoint="tiny15", config=NOTHING_KEPT)
    assert separated == [round(1.5 * 44_100)] * 3
    for name in ("first", "second"):
        assert hashes(tmp_path / name) == hashes(tmp_path / f"{name}_alone")
    kept.unlink()
    build("second_first", checkpoint="tiny15")
    build("first_second")
    assert len(separated) == 4
    assert hashes(tmp_path / "first_second") == hashes(tmp_path / "first")
    assert hashes(tmp_path / "second_first") == hashes(tmp_path / "second")


def test_a_song_at_another_pitch_is_separated_with_its_parent(tmp_path, song, build, hashes, cache, separated):
    song(tmp_path / "raw", "full", parts=("song",))
    augment = AugmentConfig(semitones=(2,))
    build(config=PrepConfig(augment=augment))
    assert len(separated) == 1
    build("alone", config=NOTHING_KEPT.model_copy(update={"augment": augment}))
    assert len(separated) == 3
    assert hashes(tmp_path / "shards") == hashes(tmp_path / "alone")


def test_what_decides_a_vocal_is_in_its_name(tmp_path, song, config):
    song(tmp_path, "a", parts=("song",), seed=1)
    song(tmp_path, "b", parts=("song",), seed=2)
    song(tmp_path, "stems", parts=("vocal", "inst"))
    found = scan(tmp_path)
    a, b, stems = (hash_song(one, tmp_path) for one in found.songs)

    def identity(hashed, config=config, checkpoint="tiny"):
        setup = equip(found, config, checkpoint=checkpoint, devices=("cpu",), ssl_folder=None)
        return vocal_identity(hashed, config, fingerprint_of(setup))

    names = [
        identity(a),
        identity(b),
        *(
            identity(a, config.model_copy(update=update))
            for update in ({"threads_per_worker": 2}, {"silent_channel": "fill"})
        ),
        identity(a, PrepConfig(separator=SeparatorConfig(overlap=0.5))),
    ]
    assert None not in names
    assert len(set(names)) == len(names)
    assert identity(a, checkpoint="tiny15") == names[0]
    assert identity(a, PrepConfig(separator=SeparatorConfig(gate_db=None, keep=False))) == names[0]
    assert identity(stems) is None


class Everything:
    """Takes all of a mix for its vocal, at a rate of its own."""

    name, rate_hz = "everything", 44_100

    def vocal(self, mix):
        assert mix.rate_hz == self.rate_hz
        return mix.blocks()


def test_a_vocal_of_another_rate_lies_in_time_with_its_mix(tmp_path, config):
    """Tones up to 12 kHz, 7 s long so that it comes in blocks: what is left of the mix is 50 dB below it."""
    seconds = np.arange(7 * RATE_HZ) / RATE_HZ
    tones = sum(0.1 * np.sin(2 * np.pi * hertz * seconds) for hertz in (110.0, 1760.0, 12_000.0))
    write_audio(tmp_path / "full.wav", np.stack([tones, 0.5 * tones]).astype(np.float32), RATE_HZ, subtype="FLOAT")
    (full,) = scan(tmp_path).songs
    ungated = config.model_copy(update={"separator": SeparatorConfig(gate_db=None)})
    separator = SongSeparator("everything", Everything)
    encoder = SongEncoder(ungated, open_codec(TINY15, encoder=True, decoder=False), separator)
    tracks = encoder.tracks(full, lambda rate_hz=RATE_HZ: DiskWave(rate_hz), SoundHash(full))
    assert {wave.rate_hz for wave in tracks.waves.values()} == {RATE_HZ}
    assert tracks.samples == tracks.waves["vocal"].samples == 7 * RATE_HZ
    parts = tracks.piece(SampleSpan(0, tracks.samples))
    inner = slice(RATE_HZ // 100, -RATE_HZ // 100)  # ends of a tone ring in any filter
    assert np.abs(parts.inst[:, inner]).max() < 3e-3 * np.abs(parts.mix).max()


def test_a_kept_vocal_is_exact_and_a_damaged_one_is_named(tmp_path):
    store, wave = VocalStore(tmp_path), np.random.default_rng(0).normal(0, 2, (2, 5000)).astype(np.float32)
    seconds = 5000 / 44_100
    assert store.read("a", seconds, DiskWave) is None
    store.write("a", DiskWave(44_100).extend([wave]))
    kept = store.read("a", seconds, DiskWave)
    assert kept is not None
    assert kept.rate_hz == 44_100
    np.testing.assert_array_equal(kept.read(0, kept.samples), wave)
    np.testing.assert_array_equal(read_audio(store.path("a")).samples, wave)
    way_out = "It is a separated vocal that was kept: remove the file, and the song is separated again."
    store.write("a", DiskWave(44_100).extend([wave[:, :2500]]))
    with pytest.raises(UserError) as raised:
        store.read("a", seconds, DiskWave)
    assert str(raised.value) == f"{store.path('a')}: 0.06 s of a song of 0.11 s are in it. {way_out}"
    store.path("a").write_bytes(b"RIFF")
    with pytest.raises(UserError) as raised:
        store.read("a", seconds, DiskWave)
    assert str(raised.value).startswith(f"{store.path('a')}: ")
    assert str(raised.value).endswith(way_out)


def test_where_nothing_can_be_kept_the_build_says_so_and_goes_on(tmp_path, song, build, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BACKLINE_CACHE", str(tmp_path / "file"))
    song(tmp_path / "raw", "full", parts=("song",))
    assert build().kept == 1
    assert (
        "separated vocals are not kept, and a build with another base model will separate again: "
        f"{tmp_path}/file/separated: cannot be written ({tmp_path}/file is a file, not a folder). Name another folder."
    ) in capsys.readouterr().err


def test_a_disk_that_refuses_a_vocal_costs_no_song_and_is_said_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    separator = SongSeparator("everything", Everything, VocalStore(tmp_path / "file"))
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 4410)).astype(np.float32)
    for identity in ("a", "b"):
        vocal = separator.vocal(identity, 0.1, lambda rate_hz: DiskWave(rate_hz).extend([wave]), DiskWave)
        np.testing.assert_array_equal(vocal.read(0, vocal.samples), wave)
    assert capsys.readouterr().err.count("separated vocals are not kept from here on: ") == 1


def test_without_a_home_folder_nothing_is_kept_and_that_is_said(tmp_path, song, build, monkeypatch, capsys):
    def homeless(path):
        if path.parts[:1] == ("~",):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.delenv("BACKLINE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    song(tmp_path / "raw", "full", parts=("song",))
    assert build().kept == 1
    assert "there is no home folder to keep a cache in. Name a folder in BACKLINE_CACHE." in capsys.readouterr().err

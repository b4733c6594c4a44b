"""Data sets as they lie on the disk: which files are the vocal and which the band, and what is said where some lack."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.canonical import sha256_of_file
from common.errors import UserError
from infer.benchmark.dataset import BenchmarkSong, check_apart, read_dataset, read_song
from infer.benchmark.excerpts import cut_excerpts, sung_places

RATE_HZ = 44_100


def tone(seconds, level=0.1, hz=220.0):
    wave = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    return np.stack([wave, wave]).astype(np.float32)


def moises_song(folder, stems):
    """A song of MoisesDB: data.json, and a file for each track of each stem."""
    card = {"song": "a", "artist": "b", "stems": []}
    for stem, tracks in stems.items():
        card["stems"].append(
            {
                "id": "x",
                "stemName": stem,
                "tracks": [{"id": track, "trackType": "t", "extension": "wav"} for track in tracks],
            }
        )
        for track, wave in tracks.items():
            write_audio(folder / stem / f"{track}.wav", wave, RATE_HZ)
    (folder / "data.json").write_text(json.dumps(card), encoding="utf-8")


def test_results_do_not_lie_among_the_songs(musdb):
    check_apart(musdb, musdb / "benchmark")
    for place in (musdb / "test", musdb / "test" / "benchmark"):
        with pytest.raises(UserError) as refused:
            check_apart(musdb, place)
        line = f"--output-dir {place}: lies among the songs of {musdb / 'test'}. Name another folder."
        assert str(refused.value) == line


def test_a_song_of_musdb_is_its_vocals_and_the_sum_of_the_others(musdb):
    data = read_dataset(musdb)
    assert data.title == "MUSDB18-HQ, test songs"
    assert [song.name for song in data.songs] == ["Ann - One", "Ben - Two"]
    waves = read_song(data.songs[0])
    mix = read_song(BenchmarkSong("mix", (musdb / "test" / "Ann - One" / "mixture.wav",), data.songs[0].band))
    np.testing.assert_allclose(waves.vocal + waves.band, mix.vocal, atol=1e-4)


def test_a_song_of_musdb_that_lacks_a_stem_is_one_line(musdb, tmp_path):
    shutil.copytree(musdb, tmp_path / "half")
    (tmp_path / "half" / "test" / "Ben - Two" / "bass.wav").unlink()
    with pytest.raises(UserError, match=r"^Ben - Two: bass.wav is missing in .*\. Unpack the data set again\.$"):
        read_dataset(tmp_path / "half")


def test_a_song_of_moisesdb_is_the_sums_of_its_tracks_and_an_instrumental_is_left_out(tmp_path):
    songs = tmp_path / "moisesdb_v0.1"
    moises_song(songs / "0a", {"vocals": {"v1": tone(1), "v2": tone(0.5)}, "bass": {"b": tone(1, hz=80.0)}})
    moises_song(songs / "0b", {"drums": {"d": tone(1)}})
    data = read_dataset(tmp_path)
    assert data.title == "MoisesDB, all songs (it has no test split)"
    assert [song.name for song in data.songs] == ["0a"]
    assert data.notes == ("left out, without a vocal or a band: 1 of 2 songs (0b).",)
    waves = read_song(data.songs[0])
    half = RATE_HZ // 2
    np.testing.assert_allclose(waves.vocal[:, :half], 2 * tone(0.5), atol=1e-6)
    np.testing.assert_allclose(waves.vocal[:, half:], tone(1)[:, half:], atol=1e-6)
    np.testing.assert_allclose(waves.band, tone(1, hz=80.0), atol=1e-6)


def test_a_folder_of_neither_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"holds no songs of MUSDB18-HQ .* and none of MoisesDB"):
        read_dataset(tmp_path)


def test_excerpts_lie_where_the_song_is_sung_spread_over_it():
    second = RATE_HZ
    sung = np.ones(20)
    sung[[3, 4, 5]] = 0.0
    vocal = np.concatenate([share * tone(1.0) for share in sung], axis=1)
    places = sung_places(vocal, 2 * second)  # 0, 2 (half of it), 6, 8, ... 18 are sung
    assert [place // second for place in places] == [0, 8, 14]
    assert sung_places(np.zeros((2, 20 * second)), 2 * second) == []
    assert sung_places(vocal[:, : 2 * second - 1], 2 * second) == []


def test_excerpts_are_the_samples_of_the_song_and_are_kept(musdb, tmp_path):
    song = read_dataset(musdb).songs[0]
    waves = read_song(song)
    excerpts = cut_excerpts(song, 1.0, tmp_path, sha256_of_file)
    assert [excerpt.key for excerpt in excerpts] == ["Ann - One_0000s", "Ann - One_0001s"]
    read = read_song(BenchmarkSong("", (excerpts[1].vocal,), (excerpts[1].true,)))
    np.testing.assert_array_equal(read.vocal, waves.vocal[:, RATE_HZ : 2 * RATE_HZ])
    np.testing.assert_array_equal(read.band, waves.band[:, RATE_HZ : 2 * RATE_HZ])
    hashes = [hashlib.sha256(wave.tobytes()).hexdigest() for wave in (read.vocal, read.band)]
    assert [excerpts[1].note.vocal_sha256, excerpts[1].note.true_sha256] == hashes
    before = excerpts[0].vocal.stat().st_mtime_ns
    assert cut_excerpts(song, 1.0, tmp_path, sha256_of_file) == excerpts
    assert excerpts[0].vocal.stat().st_mtime_ns == before
    (whole,) = cut_excerpts(song, None, tmp_path, sha256_of_file)
    assert (whole.key, whole.note.seconds) == ("Ann - One", waves.vocal.shape[1] / RATE_HZ)

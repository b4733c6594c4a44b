"""Prompts by measurement: right where they are written, none where nothing is sure, and never over a person's own."""

import json

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.command import run
from common.music.measured_tags import SongMeasures, tags_from
from common.music.measures import (
    RATE_HZ,
    BandSound,
    KeyFit,
    Register,
    Tempo,
    find_band_sound,
    find_key,
    find_register,
    find_tempo,
    onset_strength,
    same_but_octaves,
)
from prep.captions.caption import caption_songs
from prep.cli import app
from prep.made_up.folder import make_songs
from prep.sources.scan import scan

SECONDS = 12.0


def clicks(bpm, seconds=SECONDS):
    """A tick on each beat, a lower one between."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = np.zeros(time.size)
    for place, start in enumerate(np.arange(0.1, seconds - 0.1, 30 / bpm)):
        at = round(start * RATE_HZ)
        tick = np.exp(-np.arange(2000) / 300) * np.sin(np.arange(2000) * 0.5)
        wave[at : at + 2000] += tick[: wave.size - at] * (0.4 if place % 2 else 1.0)
    return wave.astype(np.float32)


def tones(*midi, seconds=SECONDS):
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return sum(0.1 * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time) for note in midi).astype(np.float32)


def noise(seconds=SECONDS):
    return (0.1 * np.random.default_rng(0).normal(size=round(seconds * RATE_HZ))).astype(np.float32)


def band_sound(wave):
    return find_band_sound(wave, onset_strength(wave))


@pytest.mark.parametrize("bpm", [96, 112, 144])
def test_the_tempo_of_clicks_is_found(bpm):
    strength = onset_strength(clicks(bpm))
    tempo = find_tempo(strength)
    assert tempo is not None
    assert tempo.bpm == pytest.approx(bpm, abs=0.6)
    assert tempo.steady == 1.0
    sound = find_band_sound(clicks(bpm), strength)
    measures = SongMeasures(is_mix=False, tempo=tempo, key=None, sound=sound, register=None)
    assert tags_from(measures)[0] == f"{bpm} bpm"


def test_a_key_is_that_of_its_notes():
    found = find_key(
        np.concatenate([tones(*chord, seconds=4.0) for chord in ((57, 60, 64), (62, 65, 69), (64, 68, 71))])
    )
    assert found is not None
    assert found.name == "A minor"


def test_a_bass_and_a_register_are_those_of_their_tones():
    low, high = (band_sound(tones(*midi)) for midi in ((40, 60), (72, 76)))
    assert low is not None
    assert high is not None
    assert low.bass_db > -6
    assert high.bass_db < -30
    register = find_register(tones(64))
    assert register is not None
    assert register.midi == pytest.approx(64, abs=0.2)
    assert register.near == 1.0


def test_silence_has_no_measures():
    silence = np.zeros(round(SECONDS * RATE_HZ), np.float32)
    assert find_tempo(onset_strength(silence)) is None
    assert find_key(silence) is None
    assert band_sound(silence) is None
    assert find_register(silence) is None


def test_noise_and_a_held_tone_say_neither_tempo_nor_key():
    for wave in (noise(), tones(60)):
        strength = onset_strength(wave)
        tags = tags_from(
            SongMeasures(
                is_mix=False,
                tempo=find_tempo(strength),
                key=find_key(noise()),
                sound=find_band_sound(wave, strength),
                register=None,
            )
        )
        assert not [tag for tag in tags if tag.endswith(("bpm", "major", "minor", "drums"))]


def test_tempi_an_octave_apart_are_the_same():
    assert same_but_octaves(60, 120)
    assert same_but_octaves(121, 120)
    assert not same_but_octaves(80, 120)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two made-up songs, of which the first has a prompt of a person's, and a broken one."""
    folder = tmp_path_factory.mktemp("captions")
    make_songs(folder, songs=2, seconds=12.0, seed=600_000)
    for path in folder.glob("song-*_prompt.txt"):
        path.unlink()
    (folder / "song-600000_prompt.txt").write_text("mine")
    (folder / "broken.mp3").write_text("la la la")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.glob("*_prompt.txt")}


def test_only_missing_prompts_are_written_and_a_rerun_writes_nothing(raw):
    tried = caption_songs(raw, dry_run=True)
    assert contents(raw) == {"song-600000_prompt.txt": "mine"}
    assert {row.key: row.outcome for row in tried} == {
        "broken": "unreadable", "song-600000": "has one", "song-600001": "to write",
    }  # fmt: skip
    done = caption_songs(raw)
    assert {row.key: row.outcome for row in done} == {
        "broken": "unreadable", "song-600000": "has one", "song-600001": "written",
    }  # fmt: skip
    assert [row.tags for row in done] == [row.tags for row in tried]
    written = contents(raw)
    assert written == {"song-600000_prompt.txt": "mine", "song-600001_prompt.txt": ", ".join(done[2].tags) + "\n"}
    assert [song.prompt for song in scan(raw).songs if song.key == "song-600001"] == [", ".join(done[2].tags)]
    again = caption_songs(raw)
    assert {row.outcome for row in again} == {"unreadable", "has one"}
    assert contents(raw) == written
    assert not list(raw.glob(".*"))


def test_overwriting_replaces_what_is_there_and_only_what_differs(raw, capsys, monkeypatch):
    caption_songs(raw)
    monkeypatch.chdir(raw)
    before = (raw / "song-600001_prompt.txt").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        run(app, ["caption", ".", "--overwrite", "--json"])
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert {key: row["outcome"] for key, row in rows.items()} == {
        "broken": "unreadable", "song-600000": "written", "song-600001": "as it was",
    }  # fmt: skip
    assert rows["song-600000"]["measures"]["tempo"]["bpm"] > 0
    assert "broken.mp3" in rows["broken"]["detail"]
    assert contents(raw)["song-600000_prompt.txt"] == ", ".join(rows["song-600000"]["tags"]) + "\n"
    assert (raw / "song-600001_prompt.txt").stat().st_mtime_ns == before
    (raw / "song-600000_prompt.txt").write_text("mine")


def test_a_song_of_which_nothing_is_sure_gets_no_file(tmp_path):
    for part in ("vocal", "inst"):
        write_audio(tmp_path / f"a_{part}.wav", np.zeros((2, 4 * RATE_HZ), np.float32), RATE_HZ)
    (row,) = caption_songs(tmp_path)
    assert (row.outcome, row.tags) == ("unsure", ())
    assert contents(tmp_path) == {}


def test_an_empty_prompt_of_a_persons_stays(tmp_path):
    write_audio(tmp_path / "a.wav", np.stack([clicks(112)] * 2), RATE_HZ)
    (tmp_path / "a_prompt.txt").write_text("")
    (row,) = caption_songs(tmp_path)
    assert row.outcome == "has one"
    assert contents(tmp_path) == {"a_prompt.txt": ""}


def test_a_songs_folder_gets_its_prompt_beside_it(tmp_path):
    (tmp_path / "a").mkdir()
    write_audio(tmp_path / "a" / "vocals.wav", np.stack([tones(64)] * 2), RATE_HZ)
    write_audio(tmp_path / "a" / "no_vocals.wav", np.stack([clicks(112)] * 2), RATE_HZ)
    (row,) = caption_songs(tmp_path)
    assert (row.outcome, row.file) == ("written", "a_prompt.txt")
    assert "112 bpm" in row.tags
    assert [song.has_prompt for song in scan(tmp_path).songs] == [True]


def test_no_tag_is_said_of_an_unsure_measure():
    unsure = SongMeasures(
        is_mix=False,
        tempo=Tempo(120.0, strength=2.0, lead=1.05, steady=0.5, rise_db=4.0),
        key=KeyFit("C major", fit=0.6, lead=0.01),
        sound=BandSound(bass_db=-10.0, hiss_db=-10.0, hiss_range_db=20.0, hiss_flatness=0.3, onsets=3.0),
        register=Register(60.5, near=1.0),
    )
    assert tags_from(unsure) == ()

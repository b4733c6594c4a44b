"""Songs at another pitch: in the right key, with their words, beside their parents, and only where asked for."""

import json
import shutil

import numpy as np
import pytest

from common.errors import UserError
from common.music.measures import RATE_HZ, find_key
from common.music.notation import read_lead_sheet
from prep.building.repair import rebuild_damaged
from prep.config import AugmentConfig, LoudnessConfig, PrepConfig
from prep.encoding.shift import shifted_wave
from prep.reports.status import status, survey
from prep.sources.scan import scan
from prep.sources.shifted import shifted_prompt, with_shifted
from shards.reader import read_manifest, read_song
from shards.verify import verify

SHEET = "key: A minor\nbpm: 120\n| Am | Dm | E | Am |\n"
BOTH = PrepConfig(augment=AugmentConfig(semitones=(-2, 3)))


def chords(*midi):
    time = np.arange(round(2.0 * RATE_HZ)) / RATE_HZ
    wave = sum(0.1 * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time) for note in midi)
    return np.stack([wave, wave]).astype(np.float32)


@pytest.mark.parametrize(("semitones", "key"), [(-2, "G minor"), (3, "C minor")])
def test_a_shifted_wave_is_in_the_shifted_key_and_as_long(semitones, key):
    wave = np.concatenate([chords(57, 60, 64), chords(62, 65, 69), chords(64, 68, 71)], axis=1)
    moved = shifted_wave(wave, RATE_HZ, semitones)
    assert moved.shape == wave.shape
    before, after = find_key(wave[0]), find_key(moved[0])
    assert before is not None
    assert after is not None
    assert (before.name, after.name) == ("A minor", key)
    assert np.array_equal(moved, shifted_wave(wave, RATE_HZ, semitones))


def test_a_shift_is_exact_and_keeps_time():
    time = np.arange(4 * RATE_HZ) / RATE_HZ
    tone = np.where((time > 1) & (time < 3), 0.3 * np.sin(2 * np.pi * 440 * time), 0).astype(np.float32)
    moved = shifted_wave(np.stack([tone, tone]), RATE_HZ, 5)[0]
    middle = moved[round(1.5 * RATE_HZ) : round(2.5 * RATE_HZ)]
    peak = np.abs(np.fft.rfft(middle * np.hanning(middle.size), 16 * middle.size)).argmax() / 16
    assert 1200 * np.log2(peak / 440) == pytest.approx(500, abs=5)
    sounds = np.flatnonzero(np.abs(moved) > 0.1) / RATE_HZ
    assert (sounds[0], sounds[-1]) == pytest.approx((1, 3), abs=0.05)


@pytest.mark.parametrize(
    ("prompt", "moved"),
    [
        ("folk, A minor, slow", "folk, C minor, slow"),
        ("key of Bb major、in F# Minor", "key of Db major, in A minor"),
        ("sad minor, C, Am, A minor key, major", "sad minor, C, Am, A minor key, major"),
    ],
)
def test_keys_in_tags_are_shifted_and_other_words_stay(prompt, moved):
    assert shifted_prompt(prompt, 3) == moved


@pytest.fixture
def two_songs(tmp_path, song, build):
    """Shards of songs a and b and of both at two other pitches."""
    for seed, key in enumerate("ab"):
        song(tmp_path / "raw", key, seed=seed, parts=("vocal", "mix"), prompt="folk, A minor")
    (tmp_path / "raw" / "a_lead_sheet.txt").write_text(SHEET, encoding="utf-8")
    build(config=BOTH)
    return tmp_path / "shards"


def test_songs_at_other_pitches_stand_beside_their_parents(tmp_path, build, two_songs, hashes, capsys):
    """They say whose they are, hold shifted words, stay where a rerun does not name them, and are mended alike."""
    songs = read_manifest(two_songs).songs()
    assert list(songs) == ["a", "a_down2", "a_up3", "b", "b_down2", "b_up3"]
    assert {(song.family, song.semitones) for song in songs.values()} == {(k, s) for k in "ab" for s in (0, -2, 3)}
    (up,), (parent,) = read_song(two_songs, "a_up3"), read_song(two_songs, "a")
    assert (up.meta.parent, up.meta.semitones, up.meta.prompt) == ("a", 3, "folk, C minor")
    assert up.lead_sheet is not None
    assert up.lead_sheet.key == read_lead_sheet("key: C minor\nbpm: 120\n| C |").key
    assert [one.chord.root for one in up.lead_sheet.chord_segments() if one.chord] == [0]
    assert up.vocal.shape == parent.vocal.shape
    assert not np.array_equal(up.vocal, parent.vocal)
    assert verify(two_songs) == []

    before = hashes(two_songs)
    (two_songs / "shard-000000.tar").write_bytes(b"")
    rebuild_damaged(two_songs, tmp_path / "raw", checkpoint="tiny", devices=["cpu"], ssl_folder=None, workers=1)
    assert hashes(two_songs) == before

    (tmp_path / "raw" / "b_prompt.txt").write_text("jazz, E minor")
    found = survey(tmp_path / "raw", two_songs, PrepConfig(), checkpoint="tiny", devices=["cpu"], ssl_folder=None)
    assert list(status(two_songs, found.plan)["stale"]) == ["b", "b_down2", "b_up3"]
    assert build().encoded == ()
    assert [read_song(two_songs, key)[0].meta.prompt for key in ("b", "b_up3")] == ["jazz, E minor", "jazz, G minor"]
    assert build(config=PrepConfig(augment=AugmentConfig(semitones=(0,))), prune=True).gone == (
        "a_down2", "a_up3", "b_down2", "b_up3",
    )  # fmt: skip
    capsys.readouterr()
    assert {part.song for part in build(config=BOTH).encoded} == {"a_down2", "a_up3", "b_down2", "b_up3"}
    assert "augment.semitones: 4 of 4 new songs are others at another pitch. They take " in capsys.readouterr().err


def test_a_build_without_them_says_nothing_of_them(tmp_path, song, build):
    song(tmp_path / "raw", "a")
    manifest = build().manifest
    written = json.loads((tmp_path / "shards" / "manifest.json").read_text(encoding="utf-8"))
    assert "augment" not in written["fingerprint"]["settings"]
    assert "parent" not in json.dumps(written)
    assert "parent" not in read_song(tmp_path / "shards", "a")[0].meta.model_dump()
    assert manifest.songs()["a"].family == "a"


def test_each_song_at_another_pitch_has_a_loudness_of_its_own(tmp_path, song, build):
    song(tmp_path / "raw", "a")
    gains = PrepConfig(augment=AugmentConfig(semitones=(-1, 1), gain_db=9.0), loudness=LoudnessConfig(target_lufs=-30))
    manifest = build(config=gains).manifest
    assert manifest.fingerprint.settings["augment"] == {"gain_db": 9.0}
    metas = {key: read_song(tmp_path / "shards", key)[0].meta for key in manifest.songs()}
    apart = {key: meta.lufs.mix + meta.gain_db + 30 for key, meta in metas.items() if meta.lufs.mix is not None}
    assert apart["a"] == pytest.approx(0, abs=1e-6)
    assert 0.1 < abs(apart["a_up1"]) < 9
    assert abs(apart["a_down1"] - apart["a_up1"]) > 0.1
    with pytest.raises(UserError, match=r"these shards were built otherwise: augment was \{'gain_db': 9\.0\}, is None"):
        build(config=gains.model_copy(update={"augment": AugmentConfig()}))


def test_a_song_that_is_called_like_another_at_its_pitch_is_refused(tmp_path, song):
    song(tmp_path / "raw", "a")
    shutil.copytree(tmp_path / "raw", tmp_path / "more")
    song(tmp_path / "more", "a_up3")
    with pytest.raises(UserError, match=r"a_up3: a song is called as a shifted would be\. Rename it\."):
        with_shifted(scan(tmp_path / "more"), (3,))
    assert [found.key for found in with_shifted(scan(tmp_path / "raw"), (0, 3, 3)).songs] == ["a", "a_up3"]

"""Folders of made-up songs: which files there are, that the stems sum exactly, and that seeds decide every byte."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from common.music.chord import Chord
from common.music.notation import read_lead_sheet
from prep.made_up.folder import make_songs
from prep.made_up.render import render_song
from prep.made_up.truth import SongTruth, lead_sheet_of_truth

SECONDS = 2.5
KNOWN_TAGS = {
    "start",
    "intro",
    "verse",
    "chorus",
    "bridge",
    "outro",
    "end",
    "inst",
    "solo",
    "hook",
    "pre-chorus",
    "break",
}
"""Structure tags that a lyric tokenizer knows without a word of vocabulary (docs/upstream.md, section 8)."""


def samples_of(path: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(path, dtype="int32", always_2d=True)
    assert rate_hz == 44_100
    return samples.astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("songs") / "raw"
    make_songs(out, songs=2, seconds=SECONDS, seed=7)
    return out


def test_each_song_has_stems_prompt_lyrics_and_truth(folder):
    kinds = ("inst.flac", "lyrics.txt", "mix.flac", "prompt.txt", "truth.json", "vocal.flac")
    expected = [f"song-00000{seed}_{kind}" for seed in (7, 8) for kind in kinds]
    assert sorted(path.name for path in folder.iterdir()) == expected


@pytest.mark.parametrize("key", ["song-000007", "song-000008"])
def test_stems_sum_exactly_to_a_mix_of_exact_length_without_clipping(folder, key):
    vocal, inst, mix = (samples_of(folder / f"{key}_{part}.flac") for part in ("vocal", "inst", "mix"))
    assert mix.shape == (round(SECONDS * 44_100), 2)
    np.testing.assert_array_equal(vocal + inst, mix)
    full_scale = 2**31
    assert 0.5 * full_scale < max(np.abs(part).max() for part in (vocal, inst, mix)) < 0.9 * full_scale


def test_files_hold_what_render_song_gives(folder):
    song = render_song(8, SECONDS)
    for part, samples in {"vocal": song.vocal, "inst": song.inst, "mix": song.mix}.items():
        np.testing.assert_array_equal(samples_of(folder / f"song-000008_{part}.flac").T / 2**31, samples)


def test_a_song_has_the_same_bytes_however_many_are_made(folder, tmp_path):
    make_songs(tmp_path, songs=1, seconds=SECONDS, seed=8)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    assert len(list(tmp_path.iterdir())) == 6


def test_seeds_differ(folder):
    for kind in ("vocal.flac", "inst.flac", "truth.json"):
        assert (folder / f"song-000007_{kind}").read_bytes() != (folder / f"song-000008_{kind}").read_bytes()


def test_form_songs_has_the_same_mix_alone(folder, tmp_path):
    mixes = make_songs(tmp_path, songs=1, seconds=SECONDS, seed=7, form="songs")
    assert mixes == [tmp_path / "song-000007.flac"]
    assert mixes[0].read_bytes() == (folder / "song-000007_mix.flac").read_bytes()
    assert sorted(path.name.removeprefix("song-000007") for path in tmp_path.iterdir()) == [
        ".flac",
        "_lyrics.txt",
        "_prompt.txt",
        "_truth.json",
    ]


@pytest.mark.parametrize("key", ["song-000007", "song-000008"])
def test_prompt_and_lyrics_say_what_is_true(folder, key):
    truth = SongTruth.model_validate_json((folder / f"{key}_truth.json").read_text(), strict=True)
    tags = (folder / f"{key}_prompt.txt").read_text().strip().split(", ")
    expected = [f"{truth.singer} vocal", f"{truth.tempo_bpm}bpm", f"{truth.key} {truth.mode} key", truth.energy]
    assert tags == [*truth.instruments, *expected]
    lines = (folder / f"{key}_lyrics.txt").read_text().split()
    assert lines == [f"[{section.name}]" for section in truth.sections]
    assert {line.strip("[]") for line in lines} <= KNOWN_TAGS


def test_a_true_lead_sheet_says_what_the_truth_says(tmp_path):
    make_songs(tmp_path, songs=4, seconds=12.0, seed=20, lead_sheets=True)
    pickups = 0
    for seed in range(20, 24):
        truth = SongTruth.model_validate_json((tmp_path / f"song-0000{seed}_truth.json").read_text(), strict=True)
        sheet = read_lead_sheet((tmp_path / f"song-0000{seed}_lead_sheet.txt").read_text())
        assert sheet == lead_sheet_of_truth(truth)
        assert sheet.key is not None
        assert sheet.key.name in {truth.full_key, {"Ab": "G#", "Eb": "D#", "Bb": "A#"}.get(truth.key, "") + " minor"}
        for times, told in ((sheet.beat_times(), truth.beats), (sheet.downbeat_times(), truth.downbeats)):
            inside = times[(times > -1e-3) & (times < truth.seconds)]
            np.testing.assert_allclose(inside[-len(told) :], told, atol=2e-3)
            assert len(inside) - len(told) in {0, 1}  # one that begins less than a millisecond before the clip
        pickups += sheet.offset < 0
        for span in truth.chords:
            middle = (span.start + span.end) / 2
            (found,) = {one.chord for one in sheet.chord_segments() if one.start <= middle < one.end}
            assert found == Chord.of_harte(span.label)
    assert pickups


@pytest.mark.parametrize(
    ("songs", "seconds", "seed", "message"),
    [
        (0, 3.0, 0, "--songs 0: ask for at least 1 song."),
        (1, 1.0, 0, "--seconds 1: a made-up song lasts 2 to 600 s. Ask for more songs rather than longer ones."),
        (1, 3.0, -1, "--seed -1: seeds are 0 or more."),
    ],
)
def test_numbers_out_of_range_are_the_users_error(tmp_path, songs, seconds, seed, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        make_songs(tmp_path, songs=songs, seconds=seconds, seed=seed)
    assert not list(tmp_path.iterdir())

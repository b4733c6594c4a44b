"""Folders of other programs' bands: what is missing, of another length or another rate is named, and nothing scored."""

import re

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.canonical import sha256_of_file
from common.errors import UserError
from infer.benchmark.excerpts import Excerpt, ExcerptNote
from infer.benchmark.systems import read_folder, read_named_folder

SECONDS = 2.0


@pytest.fixture
def excerpts(tmp_path):
    def excerpt(key):
        note = ExcerptNote(
            key=key, song=key, start_seconds=0.0, seconds=SECONDS, vocal_sha256="a" * 64, true_sha256="b" * 64
        )
        return Excerpt(note, tmp_path / f"{key}_vocal.wav", tmp_path / f"{key}_inst.wav")

    return [excerpt("one"), excerpt("one_02"), excerpt("two")]


@pytest.fixture
def put(tmp_path):
    """put(name, ...) writes a band into the folder; the folder comes back."""

    def write(*names, seconds=SECONDS, rate_hz=44_100):
        for name in names:
            write_audio(tmp_path / "theirs" / f"{name}.wav", np.zeros((1, round(seconds * rate_hz))), rate_hz)
        return tmp_path / "theirs"

    return write


def names(system, key):
    return [take.path.name for take in system.takes[key]]


def test_bands_are_found_by_their_excerpt_and_in_the_order_of_their_seeds(put, excerpts):
    folder = put("one", "one_02", "two", "one_mix")
    found = read_folder("theirs", folder, excerpts, sha256_of_file)
    assert [names(found, key) for key in ("one", "one_02", "two")] == [["one.wav"], ["one_02.wav"], ["two.wav"]]
    assert found.about == {"rate_hz": 44_100}
    seeds = [f"{excerpt.key}_accompaniment_{seed:02d}" for excerpt in excerpts for seed in (1, 2, 10)]
    for path in folder.iterdir():
        path.unlink()
    found = read_folder("theirs", put(*seeds), excerpts, sha256_of_file)
    assert names(found, "one") == [f"one_accompaniment_{seed}.wav" for seed in ("01", "02", "10")]


def refused(folder, excerpts):
    with pytest.raises(UserError) as error:
        read_folder("theirs", folder, excerpts, sha256_of_file)
    return str(error.value)


def test_a_missing_band_is_named(put, excerpts):
    folder = put("one", "one_02")
    assert refused(folder, excerpts) == (
        f"{folder}: two.wav is missing (1 of 3 excerpts are), and a mean over fewer songs compares with nothing. Make "
        "it for two_vocal.wav in excerpts/."
    )


def test_a_band_of_another_length_is_named_but_for_a_frame_of_a_codec(put, excerpts):
    put("one", "one_02")
    folder = put("two", seconds=SECONDS - 0.05)
    read_folder("theirs", folder, excerpts, sha256_of_file)
    put("two", seconds=1.5)
    assert refused(folder, excerpts) == (
        f"{folder / 'two.wav'}: the band of two lasts 1.50 s and its vocal 2.00 s; 0.093 s may lie between. Make it as "
        "long as the vocal."
    )


def test_a_band_of_another_rate_is_named(put, excerpts):
    put("one", "one_02")
    folder = put("two", rate_hz=22_050)
    assert refused(folder, excerpts) == (
        f"{folder / 'two.wav'}: the band of two is at 22050 Hz, that of one at 44100 Hz. Mend it."
    )


def test_fewer_seeds_for_one_excerpt_are_named(put, excerpts):
    folder = put("one_1", "one_3", "one_02_1", "one_02_2", "two")
    assert refused(folder, excerpts) == f"{folder}: 1 bands for two and 2 for one. Give equally many."
    put("two_0")
    assert refused(folder, excerpts) == f"{folder}: two.wav and two_0.wav are both the band of two. Keep one."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("theirs", "give NAME=FOLDER"),
        ("a/b=.", "give NAME=FOLDER"),
        ("True=.", "True is taken"),
        ("theirs=nowhere", "nowhere is no folder"),
    ],
)
def test_a_system_is_a_free_name_and_a_folder(given, said):
    with pytest.raises(UserError, match=re.escape(said)):
        read_named_folder(given, ["true", "codec"])

"""Folders as other programs leave them are the same songs as stems by name, or are refused in a line a song."""

import unicodedata

import numpy as np
import pytest

from common.audio.wave import write_audio
from common.bases import ACE_STEP_1
from prep.sources.remarks import say_remarks
from prep.sources.scan import scan
from shards.reader import read_manifest, read_song

RATE_HZ = ACE_STEP_1.latents.sample_rate_hz


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(folder):
    """Each song's parts, with the files of each below the folder."""
    songs = {}
    for song in scan(folder).songs:
        parts = songs[song.name] = {}
        for part, path in song.sources:
            parts.setdefault(part, []).append(path.relative_to(folder).as_posix())
    return songs


def refused(folder):
    return {row.key: (row.reason, row.detail) for row in scan(folder).rejections}


FOUR = ["drums", "bass", "other"]
LAYOUTS = {
    "demucs --two-stems": (
        ["ballad/vocals.wav", "ballad/no_vocals.wav"],
        {"ballad": {"vocal": ["ballad/vocals.wav"], "inst": ["ballad/no_vocals.wav"]}},
    ),
    "demucs": (
        [f"separated/htdemucs/ballad/{stem}.wav" for stem in [*FOUR, "vocals"]],
        {
            "ballad": {
                "vocal": ["separated/htdemucs/ballad/vocals.wav"],
                "inst": [f"separated/htdemucs/ballad/{stem}.wav" for stem in ("bass", "drums", "other")],
            }
        },
    ),
    "six stems beside the song": (
        ["ballad.mp3", *(f"ballad/{stem}.wav" for stem in [*FOUR, "vocals", "guitar", "piano"])],
        {
            "ballad": {
                "mix": ["ballad.mp3"],
                "vocal": ["ballad/vocals.wav"],
                "inst": [f"ballad/{stem}.wav" for stem in ("bass", "drums", "guitar", "other", "piano")],
            }
        },
    ),
    "spleeter": (
        ["album/ballad/vocals.wav", "album/ballad/accompaniment.wav"],
        {"album/ballad": {"vocal": ["album/ballad/vocals.wav"], "inst": ["album/ballad/accompaniment.wav"]}},
    ),
    "musdb": (
        [f"train/A - B/{stem}.wav" for stem in [*FOUR, "vocals", "mixture"]],
        {
            "train/A - B": {
                "mix": ["train/A - B/mixture.wav"],
                "vocal": ["train/A - B/vocals.wav"],
                "inst": [f"train/A - B/{stem}.wav" for stem in ("bass", "drums", "other")],
            }
        },
    ),
    "the mix called like its folder": (
        ["ballad/Ballad.wav", "ballad/ballad.flac", "ballad/vocal.wav", "x/x.wav", "x/vocal.wav"],
        {"x": {"mix": ["x/x.wav"], "vocal": ["x/vocal.wav"]}},
    ),
    "uvr": (
        ["1_ballad_(Vocals).wav", "1_ballad_(Instrumental).wav"],
        {"ballad": {"vocal": ["1_ballad_(Vocals).wav"], "inst": ["1_ballad_(Instrumental).wav"]}},
    ),
    "audio-separator": (
        ["ballad_(Vocals)_bs_roformer_1.flac", "ballad_(Instrumental)_bs_roformer_1.flac", "ballad.mp3"],
        {
            "ballad": {
                "mix": ["ballad.mp3"],
                "vocal": ["ballad_(Vocals)_bs_roformer_1.flac"],
                "inst": ["ballad_(Instrumental)_bs_roformer_1.flac"],
            }
        },
    ),
    "vocals and vox": (
        ["a_Vox.wav", "a_inst.wav", "b_vocals.wav", "b.wav"],
        {
            "a": {"vocal": ["a_Vox.wav"], "inst": ["a_inst.wav"]},
            "b": {"vocal": ["b_vocals.wav"], "mix": ["b.wav"]},
        },
    ),
    "a folder a part": (
        ["vocal/a.wav", "inst/a.flac", "x/Vocals/b_vocals.wav", "x/Mix/b.wav"],
        {
            "a": {"vocal": ["vocal/a.wav"], "inst": ["inst/a.flac"]},
            "x/b": {"vocal": ["x/Vocals/b_vocals.wav"], "mix": ["x/Mix/b.wav"]},
        },
    ),
    "vocals in a folder, mixes outside": (
        ["a.wav", "b.wav", "vocals/a (Vocals).wav"],
        {"a": {"vocal": ["vocals/a (Vocals).wav"], "mix": ["a.wav"]}, "b": {"mix": ["b.wav"]}},
    ),
    "stems by name in a folder called mix": (
        ["mix/a_vocal.wav", "mix/a_inst.wav"],
        {"mix/a": {"vocal": ["mix/a_vocal.wav"], "inst": ["mix/a_inst.wav"]}},
    ),
    "two runs of demucs in one folder": (
        [f"a/{stem}.wav" for stem in [*FOUR, "vocals", "no_vocals", "no_drums"]],
        {"a": {"vocal": ["a/vocals.wav"], "inst": ["a/no_vocals.wav"]}},
    ),
    "some stems beside vocal and mix": (
        [f"a/{stem}.wav" for stem in ("vocals", "backing_vocals", "drums", "mix")],
        {"a": {"vocal": ["a/vocals.wav"], "mix": ["a/mix.wav"]}},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_songs_with_their_parts(tmp_path, layout):
    files, songs = LAYOUTS[layout]
    touch(tmp_path, *files)
    assert {name: dict(sorted(parts.items())) for name, parts in found(tmp_path).items()} == {
        name: dict(sorted(parts.items())) for name, parts in songs.items()
    }


def test_stems_that_nobody_needs_are_listed(tmp_path):
    touch(tmp_path, *LAYOUTS["two runs of demucs in one folder"][0])
    assert scan(tmp_path).unused == tuple(f"a/{stem}.wav" for stem in ("bass", "drums", "no_drums", "other"))


@pytest.mark.parametrize(
    ("files", "key", "row"),
    [
        (
            ["a/vocals.wav", "a/drums.wav", "a/bass.wav"],
            "a",
            (
                "ambiguous",
                "bass.wav, drums.wav: not clear whether that is all of a's band. It needs drums, bass and other and no "
                "second vocal; else add the inst, or vocal and mix.",
            ),
        ),
        (
            [f"a/{stem}.wav" for stem in [*FOUR, "vocals", "backing_vocals"]],
            "a",
            (
                "ambiguous",
                "backing_vocals.wav, bass.wav, drums.wav, other.wav: not clear whether that is all of a's band. It "
                "needs drums, bass and other and no second vocal; else add the inst, or vocal and mix.",
            ),
        ),
        (
            ["a/vocals.wav", "a/vocals.mp3", "a/no_vocals.wav"],
            "a",
            ("ambiguous", "vocals.mp3 and vocals.wav are both the vocal of a. Keep one."),
        ),
        (
            [f"separated/{model}/a/{stem}.wav" for model in ("htdemucs", "mdx") for stem in ("vocals", "no_vocals")],
            "a",
            ("ambiguous", "htdemucs/a/no_vocals.wav and mdx/a/no_vocals.wav are both the inst of a. Keep one."),
        ),
        (
            ["a_(Vocals)_one.wav", "a_(Vocals)_two.wav", "a.wav"],
            "a",
            ("ambiguous", "a_(Vocals)_one.wav and a_(Vocals)_two.wav are both the vocal of a. Keep one."),
        ),
        (["a/vocals.wav"], "a", ("orphan_stem", "vocals.wav: one stem alone. Add the mix or the other stem.")),
        (
            [f"a/{stem}.wav" for stem in FOUR],
            "a",
            ("orphan_stem", "bass.wav: one stem alone. Add the mix or the other stem."),
        ),
        (
            ["vocal/a.wav", "vocal/b.wav", "inst/a.wav"],
            "b",
            ("orphan_stem", "b.wav: one stem alone. Add the mix or the other stem."),
        ),
    ],
)
def test_what_is_not_clear_is_refused_in_a_line(tmp_path, files, key, row):
    touch(tmp_path, *files, "good.wav")
    assert refused(tmp_path) == {key: row}
    assert "good" in found(tmp_path)


def test_a_folder_called_like_a_part_without_the_others_holds_songs_and_is_said(tmp_path, capsys):
    touch(tmp_path, "vocal/a.wav", "vocal/b.wav", "inst/c.wav", "mix/d.wav")
    assert set(found(tmp_path)) == {"vocal/a", "vocal/b", "inst/c", "mix/d"}
    say_remarks(scan(tmp_path))
    assert capsys.readouterr().err == (
        "inst, vocal: taken for full songs, as no other part of them lies beside. If they are stems, put the other "
        "parts into a folder beside, such as inst.\n"
    )


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("place", ["ガガ_prompt.txt", "ガガ/prompt.txt", "ガガ/ガガ_Prompt.txt"])
def test_a_songs_folder_has_its_texts_beside_or_inside(tmp_path, form, place):
    touch(tmp_path, *(unicodedata.normalize(form, f"ガガ/{stem}.wav") for stem in ("vocals", "no_vocals")))
    (tmp_path / unicodedata.normalize(form, place)).write_text("folk")
    (song,) = scan(tmp_path).songs
    assert (song.name, song.prompt, song.has_prompt) == ("ガガ", "folk", True)
    assert song.beside == tmp_path / unicodedata.normalize(form, "ガガ")
    assert scan(tmp_path).unused == ()


def test_a_text_beside_goes_before_one_inside_which_is_listed(tmp_path):
    touch(tmp_path, "a/vocals.wav", "a/no_vocals.wav")
    (tmp_path / "a_prompt.txt").write_text("folk")
    (tmp_path / "a" / "prompt.txt").write_text("rock")
    assert [song.prompt for song in scan(tmp_path).songs] == ["folk"]
    assert scan(tmp_path).unused == ("a/prompt.txt",)


def split_band(inst):
    """Three stems whose sum is the band, on the grid of 16-bit files."""
    rng = np.random.default_rng(0)
    drums, bass = (np.rint(inst * share * 32768).astype(np.float32) / 32768 for share in rng.uniform(0.2, 0.4, 2))
    return {"drums": drums, "bass": bass, "other": inst - drums - bass}


def write(path, wave):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, wave, RATE_HZ, subtype="PCM_16")


def test_folders_build_the_samples_of_stems_by_name(tmp_path, music, song, build, encoded_songs):
    for seed, key in enumerate(("demucs", "four", "parts"), 1):
        song(tmp_path / "names", key, parts=("vocal", "inst"), seed=seed)
    raw, waves = tmp_path / "raw", {seed: music(1.5, seed=seed) for seed in (1, 2, 3)}
    write(raw / "demucs" / "vocals.wav", waves[1].vocal)
    write(raw / "demucs" / "no_vocals.wav", waves[1].inst)
    write(raw / "four" / "vocals.wav", waves[2].vocal)
    for stem, wave in split_band(waves[2].inst).items():
        write(raw / "four" / f"{stem}.wav", wave)
    write(raw / "vocal" / "parts.wav", waves[3].vocal)
    write(raw / "inst" / "parts.wav", waves[3].inst)
    for key in ("demucs", "four", "parts"):
        (raw / f"{key}_prompt.txt").write_text("folk, guitar, slow")
    build("by_name", raw="names")
    build()
    for key in ("demucs", "four", "parts"):
        ((named,), (laid,)) = (read_song(tmp_path / folder, key) for folder in ("by_name", "shards"))
        files = {"sources": laid.meta.sources, "sound_sha256": laid.meta.sound_sha256}
        assert laid.meta == named.meta.model_copy(update=files)
        assert (laid.meta.sound_sha256 == named.meta.sound_sha256) == (key != "four")
        assert laid.arrays().keys() == named.arrays().keys()
        for name, array in named.arrays().items():
            np.testing.assert_array_equal(laid.arrays()[name], array)
    sources = read_song(tmp_path / "shards", "four")[0].meta.sources
    assert [(source.part, source.file) for source in sources] == [
        ("inst", "four/bass.wav"), ("inst", "four/drums.wav"), ("inst", "four/other.wav"), ("vocal", "four/vocals.wav"),
    ]  # fmt: skip
    before = read_manifest(tmp_path / "shards")
    encoded_songs.clear()
    build()
    assert encoded_songs == []
    assert read_manifest(tmp_path / "shards") == before
    write(raw / "four" / "other.wav", 0.5 * waves[2].inst)
    with pytest.raises(Exception, match="four has changed since these shards were built"):
        build()

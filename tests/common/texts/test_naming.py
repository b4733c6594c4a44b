"""Which names are parts of a song, which only look like stems, and which are titles."""

import pytest

from common.texts.naming import INST, MIX, VOCAL, Named, split_name, stems_not_so_named, text_named


@pytest.mark.parametrize(
    ("stem", "song", "part"),
    [
        ("ballad_vocal", "ballad", VOCAL),
        ("ballad_Vocal", "ballad", VOCAL),
        ("ballad_VOCALS", "ballad", VOCAL),
        ("ballad-vocal", "ballad", VOCAL),
        ("ballad_vox", "ballad", VOCAL),
        ("ballad_vocal ", "ballad", VOCAL),
        ("1_ballad_(Vocals)", "ballad", VOCAL),
        ("12_my song_(Instrumental)", "my song", INST),
        ("ballad_(Vocals)", "ballad", VOCAL),
        ("ballad_inst", "ballad", INST),
        ("ballad_Instrumental", "ballad", INST),
        ("ballad_accompaniment", "ballad", INST),
        ("ballad_no_vocals", "ballad", INST),
        ("ballad-no-vocals", "ballad", INST),
        ("ballad_mix", "ballad", MIX),
        ("ballad_Mix", "ballad", MIX),
        ("live_vocal_mix", "live_vocal", MIX),
        ("夏_vocal", "夏", VOCAL),
    ],
)
def test_common_names_are_parts(stem, song, part):
    assert split_name(stem) == Named(song, part)


TITLES = [
    "vocal", "Vocal", "Bass", "Drums", "other", "mix", "The Other Side", "Vocal Point", "invocal", "No Vocals Needed",
    "Artist - Vocal", "Artist - Bass", "club-mix", "re-mix", "Song (Club Mix)", "Song (feat. Other)", "instinct",
    "99_luftballons", "my_instruments", "vocalise", "drums and bass", "a_other_b",
]  # fmt: skip


@pytest.mark.parametrize(
    "stem", [*TITLES, "all_about_that_bass", "significant_other", "Song (Instrumental)", "slap-bass"]
)
def test_a_title_is_the_mix_of_its_song(stem):
    assert split_name(stem) == Named(stem, MIX)
    assert stems_not_so_named([stem], below=True) == {}


def test_titles_side_by_side_stay_titles():
    artists = [f"Artist - {word}" for word in ("Bass", "Piano", "Drums", "Other Side")]
    stems = [
        *(title for title in TITLES if title != "Artist - Vocal"),
        *artists,
        "all_about_that_bass",
        "significant_other",
        "Bass Down Low",
    ]
    assert set(stems_not_so_named(stems, below=False)) <= {"vocal", "Vocal", "Bass", "Drums", "other", "mix"}
    assert stems_not_so_named(["Bass", "Drums", *artists], below=False) == {}


def test_a_number_of_the_title_is_no_counter():
    stem = "99_luftballons_(Vocals)"
    assert split_name(stem).song == "luftballons"
    assert split_name(stem, {"99_luftballons"}).song == "99_luftballons"


@pytest.mark.parametrize(
    ("stems", "found"),
    [
        (["a_vocals", "a_drums", "a_bass", "a_other"], {"a_drums": None, "a_bass": None, "a_other": None}),
        (["a_drums", "a_bass", "a_other"], {"a_drums": None, "a_bass": None, "a_other": None}),
        (["a", "a_guitar"], {"a_guitar": None}),
        (["a", "a vocal"], {"a vocal": VOCAL}),
        (["Song", "Song (Instrumental)"], {"Song (Instrumental)": INST}),
        (["song (vocals)", "song (no vocals)"], {"song (vocals)": VOCAL, "song (no vocals)": INST}),
        (["a - vocal", "a - drums"], {"a - vocal": VOCAL, "a - drums": None}),
        (["a_vocal", "a_karaoke"], {"a_karaoke": INST}),
        (["a_vocal", "a-mix"], {"a-mix": MIX}),
        (["a_vocal", "b_bass"], {}),
        (["vocals", "no_vocals"], {"vocals": VOCAL, "no_vocals": INST}),
        (["vocals", "accompaniment"], {"vocals": VOCAL, "accompaniment": INST}),
        (["drums", "bass", "other"], {"drums": None, "bass": None, "other": None}),
        (["vocals", "drums", "mixture"], {"vocals": VOCAL, "drums": None, "mixture": MIX}),
        (["vocal", "inst"], {"vocal": VOCAL, "inst": INST}),
        (["vox", "mix", "bass"], {"vox": VOCAL, "mix": MIX, "bass": None}),
        (["vocal", "inst", "さくら"], {}),
        (["夏（Vocals）", "夏（Instrumental）"], {"夏（Vocals）": VOCAL, "夏（Instrumental）": INST}),
        (["夏", "夏【off vocal】"], {"夏【off vocal】": INST}),
        (["夏(ボーカル)", "夏(カラオケ)"], {"夏(ボーカル)": VOCAL, "夏(カラオケ)": INST}),
        (["夏", "夏_インスト", "夏　伴奏"], {"夏_インスト": INST, "夏　伴奏": INST}),
        (["夏", "夏_ホ\u3099ーカル"], {"夏_ホ\u3099ーカル": VOCAL}),
        (["ボーカル", "オフボーカル"], {"ボーカル": VOCAL, "オフボーカル": INST}),
        (["夏", "カラオケ", "冬のカラオケ"], {}),
    ],
)
def test_what_looks_like_a_stem_beside_its_song_is_none(stems, found):
    assert {stem: named.part for stem, named in stems_not_so_named(stems, below=False).items()} == found


@pytest.mark.parametrize("stem", ["vocals", "no_vocals", "no_drums", "Vocals"])
def test_a_certain_name_alone_in_a_songs_folder_is_a_stem(stem):
    assert set(stems_not_so_named([stem], below=True)) == {stem}


def test_texts_are_known_in_any_case_and_form():
    assert text_named("Gabe\u0301_prompt.TXT") == ("Gabé", "prompt")
    assert text_named("a_b_Lyrics.txt") == ("a_b", "lyrics")
    for name in ("a_lyric.txt", "a.lrc", "a.caption.txt", "_prompt.txt", "a.txt"):
        assert text_named(name) is None

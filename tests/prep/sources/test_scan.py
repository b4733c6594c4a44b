import os
import re
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from common.errors import UserError
from common.music.notation import read_lead_sheet
from prep.sources.remarks import listed, say_remarks
from prep.sources.scan import KEY_BYTES, safe_key, scan


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(folder):
    return {song.key: sorted(song.files) for song in scan(folder).songs}


def rejected(folder):
    return {row.key: (row.reason, row.detail) for row in scan(folder).rejections}


def test_songs_are_pairs_triples_and_mixes_in_any_folder(tmp_path):
    touch(
        tmp_path,
        "pair_vocal.flac", "pair_mix.wav", "triple_vocal.mp3", "triple_inst.mp3", "triple_mix.mp3",
        "bare.ogg", "bare_vocal.ogg", "full.MP3", "full2_mix.m4a", "album/side-a/full.wav",
        "made_inst.wav", "made_vocal.wav", "notes.txt", "cover.jpg", "song_truth.json",
    )  # fmt: skip
    assert found(tmp_path) == {
        "album__side-a__full": ["mix"],
        "bare": ["mix", "vocal"],
        "full": ["mix"],
        "full2": ["mix"],
        "made": ["inst", "vocal"],
        "pair": ["mix", "vocal"],
        "triple": ["inst", "mix", "vocal"],
    }
    assert rejected(tmp_path) == {}


def test_songs_come_by_key_whatever_the_folders_order(tmp_path):
    touch(tmp_path, "z.wav", "b/a.wav", "a.wav", "B.wav")
    assert [song.key for song in scan(tmp_path).songs] == ["B", "a", "b__a", "z"]


def test_a_stem_alone_is_an_orphan(tmp_path):
    touch(tmp_path, "a_vocal.wav", "b_inst.wav", "c.wav")
    assert rejected(tmp_path) == {
        "a": ("orphan_stem", "a_vocal.wav: one stem alone. Add the mix or the other stem."),
        "b": ("orphan_stem", "b_inst.wav: one stem alone. Add the mix or the other stem."),
    }
    assert found(tmp_path) == {"c": ["mix"]}


def test_two_files_for_one_part_are_ambiguous(tmp_path):
    touch(tmp_path, "a.wav", "a_mix.wav", "b_vocal.wav", "b_vocal.mp3", "b.wav")
    assert rejected(tmp_path) == {
        "a": ("ambiguous", "a.wav and a_mix.wav are both the mix of a. Keep one."),
        "b": ("ambiguous", "b_vocal.mp3 and b_vocal.wav are both the vocal of b. Keep one."),
    }


def test_texts_are_read_and_have_defaults(tmp_path):
    touch(tmp_path, "a.wav", "b_vocal.wav", "b_mix.wav", "c.wav")
    (tmp_path / "a_prompt.txt").write_bytes("\ufefffolk,\r\n  été\n".encode())
    (tmp_path / "b_lyrics.txt").write_text("[verse]\r\nla la\n\n[chorus]\n", newline="")
    (tmp_path / "c_prompt.txt").write_text(" \n")
    a, b, c = scan(tmp_path).songs
    assert (a.prompt, a.lyrics, a.has_prompt) == ("folk, été", "[instrumental]", True)
    assert (b.prompt, b.lyrics, b.has_prompt) == ("instrumental", "[verse]\nla la\n\n[chorus]", False)
    assert (c.prompt, c.has_prompt) == ("instrumental", False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932"])
def test_texts_of_any_japanese_editor_are_read(tmp_path, encoding):
    touch(tmp_path, "a.wav")
    (tmp_path / "a_prompt.txt").write_text("女性ボーカル、ピアノ\nJ-POP", encoding=encoding)
    (tmp_path / "a_lyrics.txt").write_text("[verse]\nあの日の空\n", encoding=encoding)
    (song,) = scan(tmp_path).songs
    assert (song.prompt, song.lyrics) == ("女性ボーカル、ピアノ, J-POP", "[verse]\nあの日の空")
    name = {"utf-16": "UTF-16", "cp932": "Shift-JIS"}.get(encoding)
    assert song.recoded == ({f"a_{kind}.txt": name for kind in ("prompt", "lyrics")} if name else {})


def test_texts_in_other_encodings_are_said_in_one_line(tmp_path, capsys):
    for number in range(9):
        touch(tmp_path, f"{number}.wav")
        (tmp_path / f"{number}_prompt.txt").write_text("夏の歌", encoding="cp932")
    say_remarks(scan(tmp_path))
    assert capsys.readouterr().err == (
        "texts read as Shift-JIS: 9 "
        "(0_prompt.txt, 1_prompt.txt, 2_prompt.txt, 3_prompt.txt, 4_prompt.txt and 4 more).\n"
    )


def test_texts_that_are_no_text_reject_their_song(tmp_path):
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "a_prompt.txt").write_bytes(b"folk \xff\xfe")
    (tmp_path / "b_lyrics.txt").write_bytes(b"la " * 30_000)
    assert rejected(tmp_path) == {
        "a": ("bad_text", "a_prompt.txt: not UTF-8 (byte 5). Save it as UTF-8."),
        "b": ("bad_text", "b_lyrics.txt: longer than 64 KiB. Shorten it."),
    }
    assert found(tmp_path) == {"c": ["mix"]}


def test_common_names_of_stems_make_pairs_and_others_are_rejected_with_the_right_name(tmp_path):
    touch(
        tmp_path,
        "a_Vocals.wav", "a-instrumental.aifc", "1_b_(Vocals).wav", "1_b_(Instrumental).wav", "c_vox .wav", "c.wav",
        "c_drums.wav", "d (Vocals).wav", "d.wav", "e/vocals.wav", "e/no_vocals.wav", "e/encore.wav", "Bass.mp3",
        "The Other Side.mp3", "vocal.mp3", "all_about_that_bass.mp3",
    )  # fmt: skip
    assert found(tmp_path) == {
        "a": ["inst", "vocal"], "b": ["inst", "vocal"], "c": ["mix", "vocal"], "d": ["mix"], "Bass": ["mix"],
        safe_key("The Other Side"): ["mix"], "vocal": ["mix"], "all_about_that_bass": ["mix"], "e__encore": ["mix"],
    }  # fmt: skip
    assert rejected(tmp_path) == {
        "c_drums": (
            "unknown_stem",
            "c_drums.wav: looks like a stem of c (drums), and only the sum is used. "
            "Leave it out; two of c_vocal, c_inst and c_mix are enough.",
        ),
        safe_key("d (Vocals)"): ("unknown_stem", "d (Vocals).wav: looks like the vocal of d. Name it d_vocal.wav."),
        "e__vocals": ("unknown_stem", "vocals.wav: looks like the vocal of e. Name it e_vocal.wav."),
        "e__no_vocals": ("unknown_stem", "no_vocals.wav: looks like the inst of e. Name it e_inst.wav."),
    }


@pytest.mark.parametrize("audio", ["NFC", "NFD"])
@pytest.mark.parametrize("text", ["NFC", "NFD"])
def test_texts_are_found_in_either_unicode_form_and_any_case_of_their_ending(tmp_path, audio, text):
    touch(tmp_path, unicodedata.normalize(audio, "ガガ_vocal.wav"), unicodedata.normalize(audio, "ガガ_mix.wav"))
    (tmp_path / unicodedata.normalize(text, "ガガ_prompt.TXT")).write_text("folk")
    (tmp_path / unicodedata.normalize(text, "ガガ_Lyrics.txt")).write_text("[verse]")
    (song,) = scan(tmp_path).songs
    assert (song.prompt, song.lyrics, song.has_lyrics) == ("folk", "[verse]", True)
    assert scan(tmp_path).unused == ()


def test_two_texts_of_one_song_are_ambiguous_unless_one_has_the_very_name(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    for name in ("a_prompt.TXT", "a_Prompt.txt", "b_prompt.txt", "b_prompt.TXT"):
        (tmp_path / name).write_text(name)
    assert rejected(tmp_path) == {
        "a": ("ambiguous", "a_Prompt.txt and a_prompt.TXT are both the prompt of a. Keep one.")
    }
    assert [song.prompt for song in scan(tmp_path).songs] == ["b_prompt.txt"]
    assert "b_prompt.TXT" in scan(tmp_path).unused


def test_files_that_nobody_uses_are_listed(tmp_path):
    touch(
        tmp_path,
        "a.wav", "a_truth.json", "a_lyric.txt", "a.lrc", "a.caption.txt", "other_prompt.txt", "x/cover.jpg", ".hidden",
        "b_vocal.wav",
    )  # fmt: skip
    (tmp_path / "a_prompt.txt").write_text("folk")
    unused = ["a.caption.txt", "a.lrc", "a_lyric.txt", "other_prompt.txt", "x/cover.jpg"]
    assert list(scan(tmp_path).unused) == unused
    assert listed(unused) == ["files that nobody used: 5", *(f"  {name}" for name in unused)]
    assert listed([str(number) for number in range(1000)])[20:] == [
        "  19", "  and 980 more (prep status --json lists all)"
    ]  # fmt: skip
    assert listed([]) == []


def test_hidden_files_and_link_loops_are_no_songs(tmp_path):
    touch(tmp_path, "a.wav", "._a.wav", ".cache/b.wav", "folder.wav/c.wav")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "folder.wav" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert list(found(tmp_path).values()) == [["mix"], ["mix"]]


def test_a_name_that_is_no_unicode_is_still_a_song(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    touch(tmp_path, name)
    (song,) = scan(tmp_path).songs
    assert song.name == "caf\ufffd"
    assert re.fullmatch(r"caf_-[0-9a-f]{8}", song.key)


def test_a_folder_without_songs_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder\.$"):
        scan(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r": no songs in it \(names that end in \.aac, .*, \.wv\)\.$"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("name", "key"), [("ballad", "ballad"), ("No-1_b", "No-1_b"), ("夏の歌", "夏の歌"), ("x/y/z_2", "x__y__z_2")]
)
def test_a_clean_name_is_its_own_key(name, key):
    assert safe_key(name) == key


@pytest.mark.parametrize("name", ["a b", "a.b", "-a", "_a", "a_", "a__b", "a/-b", "é" * 40, "..", "a:b", "a\nb"])
def test_another_name_gets_a_hash(name):
    assert re.fullmatch(r"[\w-]*-[0-9a-f]{8}", safe_key(name))


names = st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), min_size=1)


@given(name=names.map("/".join))
@example(name="\u0345")
def test_any_name_gets_a_key_that_every_file_system_takes(name):
    key = safe_key(name)
    assert re.fullmatch(r"[\w-]+", key)
    assert not key.startswith("-")
    assert len(key.encode()) <= KEY_BYTES


@given(one=names.map("/".join), other=names.map("/".join))
@example(one="a/b", other="a__b")
@example(one="a b", other="a.b")
@example(one="a_/b", other="a/_b")
def test_different_names_get_different_keys(one, other):
    assume(one != other)
    assert safe_key(one) != safe_key(other)


def test_composed_and_decomposed_spelling_are_one_song(tmp_path):
    touch(tmp_path, unicodedata.normalize("NFC", "é_vocal.wav"), unicodedata.normalize("NFD", "é_mix.wav"))
    assert found(tmp_path) == {"é": ["mix", "vocal"]}


def test_a_lead_sheet_is_read_and_one_that_cannot_be_is_a_rejection(tmp_path):
    touch(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav", "d_lead_sheet.txt")
    (tmp_path / "a_lead_sheet.txt").write_text("bpm: 100\n| C | F |\n", encoding="utf-8")
    (tmp_path / "b_Lead_Sheet.TXT").write_text("bpm: 100\n| C | quack |\n", encoding="utf-8")
    found = scan(tmp_path)
    sheets = {song.key: song.lead_sheet for song in found.songs}
    assert sheets == {"a": read_lead_sheet("bpm: 100\n| C | F |"), "c": None, "d": None}
    (row,) = found.rejections
    assert (row.key, row.reason) == ("b", "bad_text")
    assert row.detail.startswith("b_Lead_Sheet.TXT, line 2: 'quack' is no chord")
    assert found.unused == ()

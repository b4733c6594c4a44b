import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from common.errors import UserError
from models.acestep1.text.lyric_cleaning import clean_line, spell
from models.acestep1.text.lyric_tokens import (
    LANGUAGE_IDS,
    TAG_IDS,
    encode_lyrics,
    open_lyric_vocabulary,
    reduce_lyrics,
)

GOLDEN = json.loads((Path(__file__).parents[3] / "goldens" / "lyrics.json").read_text(encoding="utf-8"))
SPECIAL = GOLDEN["special_tokens"]
CODES = {f"[{'zh-cn' if code == 'zh' else code}]": code for code in LANGUAGE_IDS}


def golden_lines(lyric):
    """(line, language, cleaned line) of each line that is not blank, as upstream's inference saw it."""
    pieces = lyric["inference_pieces"][1:]
    for line in filter(None, map(str.strip, lyric["text"].split("\n"))):
        while pieces[0] == "[SPACE]":
            pieces = pieces[1:]
        later = [place for place, piece in enumerate(pieces) if place and piece in CODES]
        end = later[0] if later else len(pieces)
        words = "".join(" " if piece == "[SPACE]" else piece for piece in pieces[1:end])
        yield line, CODES[pieces[0]], re.sub(r"^\[UNK\](.*)\[UNK\]$", r"[\1]", words.rstrip())
        pieces = pieces[end:]


def needs_no_vocabulary(lyric):
    return lyric["text"] and all(
        not line.strip() or line.strip().lower() in TAG_IDS for line in lyric["text"].split("\n")
    )


@pytest.fixture(scope="session")
def vocabulary_folder(tmp_path_factory):
    """A folder with a vocabulary of ACE-Step's size and special ids, whose other tokens are single characters."""
    letters = {letter: 3 + place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyzéа-',!")}
    known = letters | SPECIAL
    taken = set(known.values())
    filler = {f"<{number}>": number for number in range(6681) if number not in taken}
    base = {token: number for token, number in (known | filler).items() if number < 6681}
    tokenizer = Tokenizer(models.BPE(vocab=base, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token) for token, _ in sorted(SPECIAL.items(), key=lambda item: item[1])])
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer.save(str(folder / "lyric_vocab.json"))
    return folder


@pytest.fixture(scope="session")
def vocabulary(vocabulary_folder):
    return open_lyric_vocabulary(vocabulary_folder)


@pytest.fixture(scope="session")
def upstream_vocabulary():
    path = os.environ.get("BACKLINE_LYRIC_VOCAB")
    if not path:
        pytest.skip("BACKLINE_LYRIC_VOCAB does not name upstream's vocab.json")
    folder = Path(path).parent
    assert Path(path).name == "lyric_vocab.json", "name the file lyric_vocab.json"
    return open_lyric_vocabulary(folder)


def test_special_tokens_have_the_checkpoints_ids():
    for token, code in CODES.items():
        assert LANGUAGE_IDS[code] == SPECIAL[token]
    for tag, ids in TAG_IDS.items():
        assert tag == "[instrumental]" or ids == (SPECIAL[tag],)


@pytest.mark.parametrize("lyric", filter(needs_no_vocabulary, GOLDEN["lyrics"]), ids=lambda lyric: repr(lyric["text"]))
@pytest.mark.parametrize("language", ["en", "ja"])
def test_tags_and_blank_lines_match_upstream_without_a_vocabulary(lyric, language):
    tokens = encode_lyrics(lyric["text"], None, language)
    assert tokens.ids.tolist() == lyric["inference"]
    assert tokens.ids.dtype == np.int32
    assert not tokens.dropped_words


def test_a_vocabulary_changes_nothing_about_tags(vocabulary):
    for lyric in filter(needs_no_vocabulary, GOLDEN["lyrics"]):
        assert encode_lyrics(lyric["text"], vocabulary).ids.tolist() == lyric["inference"]


def test_empty_lyrics_count_as_instrumental():
    assert encode_lyrics("", None).ids.tolist() == encode_lyrics("[Instrumental]", None).ids.tolist()


def test_the_parametrised_goldens_are_there():
    assert sum(bool(needs_no_vocabulary(lyric)) for lyric in GOLDEN["lyrics"]) >= 7


@pytest.mark.parametrize(
    ("lyrics", "reduced"),
    [
        ("[intro]\nWalking down\n\n[Chorus]\nWe are", "[intro]\n\n[chorus]"),
        ("[Verse 1]\nla\n[verse: her] la la", "[verse]\n[verse]"),
        ("[singer 1: male]\noh", "[instrumental]"),
        ("Walking\n\ndown", "[instrumental]"),
        ("君を待っている", "[instrumental]"),
    ],
)
def test_without_a_vocabulary_lyrics_are_reduced_to_their_tags(lyrics, reduced):
    tokens = encode_lyrics(lyrics, None)
    assert tokens.dropped_words
    assert tokens.ids.tolist() == encode_lyrics(reduced, None).ids.tolist()


def test_words_go_through_the_vocabulary_line_by_line(vocabulary):
    tokens = encode_lyrics("[verse]\nAb  é\n\n[Verse 1] c", vocabulary, "fr")
    a, b, c, e, n, o, r, s, v = (vocabulary.tokenizer.token_to_id(letter) for letter in "abcenorsv")
    accented = vocabulary.tokenizer.token_to_id("é")
    verse_one = [1, v, e, r, s, e, 2, o, n, e, 1, 2, c]
    assert tokens.ids.tolist() == [261, 259, 6683, 2, 262, a, b, 2, accented, 2, 2, 259, *verse_one, 2]
    assert not tokens.dropped_words


@pytest.mark.parametrize("lyric", GOLDEN["lyrics"], ids=lambda lyric: repr(lyric["text"])[:30])
def test_lines_are_cleaned_as_upstream_cleans_them(lyric):
    for line, language, words in golden_lines(lyric):
        assert clean_line(line, language) == words


@pytest.mark.parametrize("case", GOLDEN["encode"], ids=lambda case: case["line"])
def test_forced_languages_are_cleaned_as_upstream_cleans_them(case):
    assert clean_line(case["line"], case["lang"]) == case["preprocessed"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (85, "eighty-five"),
        (105, "one hundred and five"),
        (300, "three hundred"),
        (1005, "one thousand and five"),
        (1999, "one thousand, nine hundred and ninety-nine"),
        (20_000, "twenty thousand"),
        (999_999, "nine hundred and ninety-nine thousand, nine hundred and ninety-nine"),
    ],
)
def test_numbers_in_english(number, words):
    assert spell(number) == words


@given(st.integers(min_value=0, max_value=999_999))
def test_a_number_is_spelt_the_same_with_commas_and_leaves_no_digit(number):
    assert clean_line(f"at {number:,}!", "en") == clean_line(f"at {number}!", "en") == f"at {spell(number)}!"


@pytest.mark.parametrize("line", ["3.5 miles", "the 1st", "1,000,000 times", "in the 90s", "mp3", "$1.50"])
def test_numbers_that_are_not_spelt_are_refused(line):
    with pytest.raises(UserError) as caught:
        clean_line(line, "en")
    assert str(caught.value) == f'lyrics line "{line}": this number is not spelt out in "en". Write it as words.'


def test_numbers_are_spelt_in_english_only_and_tones_stay():
    with pytest.raises(UserError, match=r'this number is not spelt out in "de"'):
        clean_line("99 Luftballons", "de")
    assert clean_line("Ni3 hao3", "zh") == "ni3 hao3"


@pytest.mark.parametrize(
    ("lyrics", "language", "read", "reason"),
    [
        (
            "la\nさくら",
            "en",
            "la",
            '"さくら": "en" is not written so. Set the language of the lyrics to ja, ko, zh, or',
        ),
        ("la\n안녕\n", "ja", "la\n", '"안녕": "안녕" has no reading in "ja"; write it in Latin letters (ni3 hao3,'),
        ("[verse]\n\n3.5", "en", "[verse]\n", '"3.5": this number is not spelt out in "en". Write it as words.'),
        ("我有3只猫", "zh", "[instrumental]", '"我有3只猫": this number is not spelt out in "zh". Write it as words.'),
    ],
)
def test_a_line_that_cannot_be_read_is_left_out_and_told(vocabulary, lyrics, language, read, reason):
    tokens = encode_lyrics(lyrics, vocabulary, language)
    assert tokens.ids.tolist() == encode_lyrics(read, vocabulary, language).ids.tolist()
    assert len(tokens.unread) == 1
    assert reason in tokens.unread[0]
    assert not tokens.dropped_words


def test_lines_of_the_four_scripts_may_share_a_song(vocabulary):
    """The mixed lyrics of the golden, each line in the language that upstream took it for."""
    (lyric,) = (lyric for lyric in GOLDEN["lyrics"] if "안녕하세요" in lyric["text"])
    for line, language, words in golden_lines(lyric):
        assert encode_lyrics(line, vocabulary, language).unread == ()
        assert clean_line(line, language) == words


def test_an_unknown_language_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        encode_lyrics("[verse]", None, "xh")
    assert str(caught.value) == (
        'lyrics language "xh" is not one of en, de, fr, ru, es, it, pt, cs, pl, tr, nl, ar, zh, ja, hu, ko, hi.'
    )


def test_a_folder_without_vocabulary_has_none(tmp_path):
    assert open_lyric_vocabulary(tmp_path) is None


def test_another_vocabulary_is_refused(tmp_path):
    path = tmp_path / "lyric_vocab.json"
    Tokenizer(models.BPE(vocab={"[SPACE]": 0}, merges=[])).save(str(path))
    with pytest.raises(UserError) as caught:
        open_lyric_vocabulary(tmp_path)
    assert str(caught.value) == (
        f"{path}: [SPACE] has id 0, ACE-Step's has 2. "
        "Use upstream's acestep/models/lyrics_utils/vocab.json under this name, or remove it."
    )
    path.write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        open_lyric_vocabulary(tmp_path)


@pytest.mark.parametrize("lyric", GOLDEN["lyrics"], ids=lambda lyric: repr(lyric["text"])[:30])
def test_words_match_upstream_with_its_vocabulary(lyric, upstream_vocabulary):
    if not lyric["text"]:
        pytest.skip("empty lyrics are ours")
    languages = {language for line, language, _ in golden_lines(lyric) if not line.startswith("[")} or {"en"}
    if len(languages) > 1:
        pytest.skip("one language for all lines is ours")
    assert encode_lyrics(lyric["text"], upstream_vocabulary, *languages).ids.tolist() == lyric["inference"]


@pytest.mark.parametrize("case", GOLDEN["encode"], ids=lambda case: case["line"])
def test_forced_languages_match_upstream_with_its_vocabulary(case, upstream_vocabulary):
    assert list(upstream_vocabulary.line_ids(case["line"], case["lang"])) == case["ids"]


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ("[Verse 2]\nLa la\n\n[chorus]\nLa", "[verse]\n\n[chorus]"),
        ("La la\nLa", "[instrumental]"),
        ("", "[instrumental]"),
        ("[instrumental]", "[instrumental]"),
        ("[spoken]\nHey", "[instrumental]"),
    ],
)
def test_lyrics_are_reduced_to_their_structure_or_to_nothing(text, structure):
    assert reduce_lyrics(text, "structure") == structure
    assert reduce_lyrics(text, "instrumental") == "[instrumental]"
    assert reduce_lyrics(text, "words") == text
    assert encode_lyrics(structure, None).ids.tolist() == encode_lyrics(text, None).ids.tolist()
    assert not encode_lyrics(structure, None).dropped_words

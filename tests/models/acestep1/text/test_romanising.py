import pytest

from common.errors import UserError
from models.acestep1.text.lyric_cleaning import clean_line
from models.acestep1.text.romanising import PACKAGES, romanised, romaniser_of

LINES = {
    "ja": ("君を待っている", "kimi wo matte iru"),
    "ko": ("안녕하세요", "annyeonghase-yo"),
    "zh": ("我愿意", "wo3yuan4yi4"),
}


@pytest.mark.parametrize(
    ("line", "language", "words"),
    [
        *((line, language, words) for language, (line, words) in LINES.items()),
        ("さよなら my love", "ja", "sayonara my love"),
        ("「夢」を3回", "ja", '"yume" wo 3 kai'),
        ("ｻｸﾗ", "ja", "sakura"),
        ("사랑해 Love", "ko", "salanghae love"),
        ("重庆，Rock & 'Roll'！", "zh", "chong2qing4,rock , ,roll,,"),
        ("Kimi Wo 2", "ja", "kimi wo 2"),
    ],
)
def test_a_line_becomes_latin_letters(line, language, words):
    assert clean_line(line, language) == words


@pytest.mark.parametrize(
    ("line", "language", "left"),
    [("君と안녕", "ja", "안녕"), ("사랑 東京", "ko", "東京"), ("我の", "zh", "の"), ("々", "ja", "々")],
)
def test_letters_without_a_reading_are_named(line, language, left):
    with pytest.raises(UserError) as caught:
        clean_line(line, language)
    assert str(caught.value) == (
        f'lyrics line "{line}": "{left}" has no reading in "{language}"; write it in Latin letters '
        "(ni3 hao3, sakura, annyeong)."
    )


@pytest.mark.parametrize("language", PACKAGES)
def test_without_the_extra_a_line_is_refused_with_the_way_out_and_latin_lines_are_read(language, without_romanisers):
    line, _ = LINES[language]
    assert romaniser_of(language) is None
    with pytest.raises(UserError) as caught:
        romanised(line, language)
    assert str(caught.value) == (
        f'lyrics line "{line}": reading "{language}" needs the extra "lyrics": uv sync --extra lyrics, or pip install '
        "'backline[lyrics]'. Or write it in Latin letters (ni3 hao3, sakura, annyeong)."
    )
    assert clean_line("La la", language) == "la la"


def test_a_romaniser_is_named_with_its_versions():
    assert romaniser_of("ja") == "cutlet 0.5.2, unidic_lite 1.0.8"
    assert romaniser_of("en") is None

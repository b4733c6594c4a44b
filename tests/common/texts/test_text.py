"""Old encodings are told from each other, and what is not certain stays an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.texts.text import SHIFT_JIS, UTF_8, UTF_16, decode_text

JAPANESE = ["夏の歌", "ピアノ、ドラム", "演歌", "女性ボーカル, J-POP, BPM120の曲", "[verse]\nあの日の空", "♪～ラララ"]
ELSEWHERE = [
    ("folk, été, café", ("cp1252", "mac_roman")),
    ("don\u2019t stop, it\u2019s", ("cp1252", "mac_roman")),
    ("\u201cÉl\u201d, \u2018a\u2019 \u2013 b", ("cp1252", "mac_roman")),
    ("Mädchen, Häuser, Übermut", ("cp1252", "mac_roman")),
    ("señor corazón", ("cp1252",)),
    ("Příliš žluťoučký kůň", ("cp1250", "iso8859-2")),
    ("Привет мир, гитара", ("cp1251", "koi8-r")),
    ("钢琴，鼓", ("gbk",)),
    ("鋼琴，鼓", ("big5",)),
    ("피아노, 드럼", ("euc-kr",)),
    ("夏の歌、ピアノ", ("euc-jp", "iso2022_jp_2")),
]


@pytest.mark.parametrize("text", JAPANESE)
def test_japanese_is_read_as_windows_saves_it(text):
    for encoding, name in (("utf-8", UTF_8), ("utf-8-sig", UTF_8), ("utf-16", UTF_16), ("cp932", SHIFT_JIS)):
        found = decode_text(f"{text}\r\n".encode(encoding))
        assert (found.content, found.encoding) == (text, name)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_latin_letters_with_zeros_between_them_are_utf_16(encoding):
    found = decode_text("folk, piano\n".encode(encoding))
    assert (found.content, found.encoding) == ("folk, piano", UTF_16)


@pytest.mark.parametrize(("text", "encodings"), ELSEWHERE)
def test_no_other_encoding_passes_for_japanese(text, encodings):
    for encoding in encodings:
        content = text.encode(encoding)
        if encoding == "iso2022_jp_2":  # seven bits: it is valid UTF-8
            assert decode_text(content).encoding == UTF_8
            continue
        with pytest.raises(UnicodeDecodeError):
            decode_text(content)


@given(text=st.text(st.sampled_from("夏の歌あの日空ピアノ、 a"), min_size=2), data=st.data())
def test_damaged_utf_8_is_not_taken_for_another_encoding(text, data):
    content = text.encode()
    place = data.draw(st.integers(1, len(content) - 1))
    for damaged in (content[:place], content[place:], content[:place] + b"\xff" + content[place:]):
        try:
            found = decode_text(damaged)
        except UnicodeDecodeError:
            continue
        assert (found.content, found.encoding) == (damaged.decode().strip(), UTF_8)


@given(text=st.text())
def test_utf_8_comes_first(text):
    found = decode_text(text.encode())
    assert found.encoding == UTF_8 or "\0" in text
    assert found.content == "\n".join(text.splitlines()).strip() or "\0" in text or text.startswith("\ufeff")

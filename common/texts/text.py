"""Texts that people wrote: in UTF-8, or as older editors save them, and which of these it was."""

import codecs
import os
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

MAX_TEXT_BYTES = 64 * 1024
UTF_8, UTF_16, SHIFT_JIS = "UTF-8", "UTF-16", "Shift-JIS"
WINDOWS_SHIFT_JIS = "cp932"
"""Shift-JIS with the characters that Windows adds."""
JAPANESE = re.compile(r"[\u3005-\u3007\u3041-\u3096\u309b-\u309e\u30a1-\u30fe\u4e00-\u9fff]")
KANA = re.compile(r"[\u3041-\u3096\u30a1-\u30fa]")
FOREIGN = re.compile(r"[\uff61-\uff9f\ue000-\uf8ff]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")
"""Half-width katakana, private and control characters: what bytes of other encodings become in Shift-JIS."""
FIRST_RARE_KANJI = 0x99
"""Lead bytes from here on are kanji of the second level."""
LEAST_JOINED, MOST_RARE = 0.8, 0.25
"""Shares of Japanese characters that stand beside another, and that are rare, in text that is truly Japanese."""


@dataclass(frozen=True)
class Text:
    """A text without the blanks around it, its lines ended by newlines."""

    content: str
    encoding: str  # UTF_8, UTF_16 or SHIFT_JIS


def read_text(path: Path, *, name: str | None = None) -> Text | None:
    """A small text; None where there is no such file. `name` is what errors call it, by default the path.

    Raises UserError for another kind of file, a long one, and one in an encoding that cannot be told for certain.
    """
    name = str(path) if name is None else name
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise UserError(f"{name}: is not a file.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}).") from None
    if len(content) > MAX_TEXT_BYTES:
        raise UserError(f"{name}: longer than {MAX_TEXT_BYTES // 1024} KiB. Shorten it.")
    try:
        return decode_text(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from None


def decode_text(content: bytes) -> Text:
    """UTF-8 wherever it can be that; else UTF-16, or Shift-JIS where that gives plausible Japanese.

    Raises UnicodeDecodeError, that of UTF-8, for anything else.
    """
    try:
        text, encoding = content.decode("utf-8-sig"), UTF_8
    except UnicodeDecodeError:
        decoded = _with_mark(content) or _japanese(content)
        if decoded is None:
            raise
        text, encoding = decoded.content, decoded.encoding
    else:
        if "\0" in text and (wide := _without_mark(content)) is not None:
            text, encoding = wide, UTF_16
    return Text("\n".join(text.splitlines()).strip(), encoding)


def _with_mark(content: bytes) -> Text | None:
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    wide = _decoded(content, "utf-16")
    return None if wide is None or "\0" in wide else Text(wide, UTF_16)


def _without_mark(content: bytes) -> str | None:
    """UTF-16 of Latin letters is also UTF-8, with a zero beside each letter, which no text has."""
    little_endian = content[1::2].count(0) > content[::2].count(0)
    text = _decoded(content, "utf-16-le" if little_endian else "utf-16-be")
    return None if text is None or FOREIGN.search(text) else text


def _japanese(content: bytes) -> Text | None:
    """Shift-JIS, but not a damaged file in UTF-8, most of which still is UTF-8: three bytes for each letter."""
    high = sum(byte > 0x7F for byte in content)
    whole = 3 * sum(letter >= "\u0800" for letter in content.decode("utf-8", "ignore"))
    text = _decoded(content, WINDOWS_SHIFT_JIS) if whole < high / 2 else None
    return None if text is None or not is_plausible(text) else Text(text, SHIFT_JIS)


def is_plausible(text: str) -> bool:
    """Whether text that was decoded as Shift-JIS can be meant: bytes of other encodings decode too, to odd characters.

    In Japanese, characters stand beside each other, few are rare, and nearly all text has kana.
    """
    found = list(JAPANESE.finditer(text))
    if not found or FOREIGN.search(text):
        return False
    places = {match.start() for match in found}
    joined = sum(place - 1 in places or place + 1 in places for place in places)
    rare = sum(match[0].encode(WINDOWS_SHIFT_JIS)[0] >= FIRST_RARE_KANJI for match in found)
    return joined >= LEAST_JOINED * len(found) and rare <= (MOST_RARE * len(found) if KANA.search(text) else 0)


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None

"""Lines of Chinese, Japanese and Korean in Latin letters, by the libraries that ACE-Step was trained with.

docs/upstream.md, section 8. They come with the extra `lyrics`; a line that needs one which is missing is a UserError.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

from common.errors import UserError

UNROMANISED = re.compile(
    "[\u1100-\u11ff\u3005\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uff66-\uff9d"
    "\U00020000-\U0003ffff]+"
)
"""Hangul, kana and Han."""
PACKAGES = {"ja": ("cutlet", "unidic_lite"), "ko": ("hangul_romanize",), "zh": ("pypinyin",)}
"""Modules that romanise a language; the second of Japanese is the dictionary of the first."""
WRITE_IT = "write it in Latin letters (ni3 hao3, sakura, annyeong)."


def romaniser_of(language: str) -> str | None:
    """Packages that romanise a language, with their versions; None where it needs none, or one is not installed."""
    packages = PACKAGES.get(language, ())
    if not packages or any(find_spec(package) is None for package in packages):
        return None
    return ", ".join(f"{package} {version(package)}" for package in packages)


def romanised(line: str, language: str) -> str:
    """`line` in Latin letters, lower case, as upstream's inference has it; itself where it holds no other script.

    Raises UserError where a package is missing, or letters have no reading in the language.
    """
    if not UNROMANISED.search(line):
        return line
    if language not in PACKAGES:
        ways = f"Set the language of the lyrics to {', '.join(PACKAGES)}, or {WRITE_IT}"
        raise UserError(f'lyrics line "{line}": "{language}" is not written so. {ways}')
    if romaniser_of(language) is None:
        extra = "uv sync --extra lyrics, or pip install 'backline[lyrics]'"
        raise UserError(f'lyrics line "{line}": reading "{language}" needs the extra "lyrics": {extra}. Or {WRITE_IT}')
    words = _romaniser(language)(line)
    left = UNROMANISED.search(words)
    if left or not words:
        unread = left[0] if left else line
        raise UserError(f'lyrics line "{line}": "{unread}" has no reading in "{language}"; {WRITE_IT}')
    return words


@cache
def _romaniser(language: str) -> Callable[[str], str]:
    return {"ja": _japanese, "ko": _korean, "zh": _chinese}[language]()


def _japanese() -> Callable[[str], str]:
    from cutlet import Cutlet

    reader = Cutlet(ensure_ascii=False)  # what has no reading stays, where upstream's becomes "?"
    return lambda line: reader.romaji(line).lower()


def _korean() -> Callable[[str], str]:
    from hangul_romanize import Transliter
    from hangul_romanize.rule import academic

    return Transliter(academic).translit


def _chinese() -> Callable[[str], str]:
    from pypinyin import Style, lazy_pinyin

    def read(line: str) -> str:
        marked = "".join("," if _is_mark(character) else character for character in line)
        return "".join(lazy_pinyin(marked, style=Style.TONE3, neutral_tone_with_five=True))

    return read


def _is_mark(character: str) -> bool:
    """Punctuation, of which upstream makes commas in Chinese."""
    narrow = unicodedata.normalize("NFKC", character)
    return unicodedata.category(character).startswith("P") or narrow in string.punctuation

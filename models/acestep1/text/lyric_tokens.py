"""Lyrics to token ids, as ACE-Step's inference encodes them. docs/upstream.md, section 8. L lyric tokens.

Blank lines, structure tags, [inst] and [instrumental] have fixed ids. Words need ACE-Step's vocabulary, which Backline
does not ship: `lyric_vocab.json` in the checkpoint folder. Without it lyrics are reduced to their tags.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from common.bases import LYRIC_VOCABULARY_FILE
from common.errors import UserError
from common.progress import say
from common.texts.lyrics import LyricsContent
from models.acestep1.text.lyric_cleaning import clean_line
from models.protocols import LyricReader, LyricTokens

VOCABULARY_FILE = LYRIC_VOCABULARY_FILE
SPACE = 2
"""Stands for a space between words, and ends every line."""
START = 261
INSTRUMENTAL = "[instrumental]"
LANGUAGE_IDS = {
    "en": 259,
    "de": 260,
    "fr": 262,
    "ru": 267,
    "es": 284,
    "it": 285,
    "pt": 286,
    "cs": 293,
    "pl": 294,
    "tr": 295,
    "nl": 297,
    "ar": 5022,
    "zh": 5023,
    "ja": 5412,
    "hu": 5753,
    "ko": 6152,
    "hi": 6680,
}
# fmt: off
TAG_NAMES = (
    "start", "intro", "verse", "chorus", "bridge", "outro", "end", "inst", "solo", "hook", "pre-chorus", "break",
)
# fmt: on
TAG_IDS = {f"[{name}]": (6681 + place,) for place, name in enumerate(TAG_NAMES)} | {
    INSTRUMENTAL: (1, 718, 1951, 763, 56, 1)  # no token of its own: unknown, its pieces, unknown
}
LEADING_BRACKET = re.compile(r"\[([a-z-]*)[^\]]*\]", re.IGNORECASE)
"""[anything] at the start of a line; its first word, as in [Verse 2], is the group."""


@dataclass(frozen=True)
class LyricVocabulary:
    """ACE-Step's byte pair encoding of cleaned lines."""

    tokenizer: Tokenizer

    def line_ids(self, line: str, language: str) -> tuple[int, ...]:
        """Ids of a line behind its language's token. UserError where `clean_line` gives up."""
        words = clean_line(line, language).replace(" ", "[SPACE]")
        return LANGUAGE_IDS[language], *self.tokenizer.encode(words).ids


@dataclass(frozen=True)
class LyricIdReader(LyricReader):
    """Lyrics as token ids; a trainer makes those of less of them by itself."""

    vocabulary: LyricVocabulary | None

    def check_language(self, language: str) -> None:
        """Raises UserError for a language that has no token."""
        check_language(language)

    def read(self, lyrics: str, language: str) -> LyricTokens:
        """`encode_lyrics` with the vocabulary. Raises UserError for a language that has no token."""
        return encode_lyrics(lyrics, self.vocabulary, language)


def open_lyric_vocabulary(folder: Path) -> LyricVocabulary | None:
    """The vocabulary in a checkpoint's folder, None where there is none. Raises UserError where it is another one."""
    path = Path(folder) / VOCABULARY_FILE
    if not path.is_file():
        return None
    way_out = "Use upstream's acestep/models/lyrics_utils/vocab.json under this name, or remove it."
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{path}: not a tokenizer file ({error}). {way_out}") from error
    for token, expected in {"[SPACE]": SPACE, "[START]": START, "[en]": LANGUAGE_IDS["en"], "[break]": 6692}.items():
        found = tokenizer.token_to_id(token)
        if found != expected:
            raise UserError(f"{path}: {token} has id {found}, ACE-Step's has {expected}. {way_out}")
    return LyricVocabulary(tokenizer)


def check_language(language: str) -> None:
    """Raises UserError for a language that has no token."""
    if language not in LANGUAGE_IDS:
        raise UserError(f'lyrics language "{language}" is not one of {", ".join(LANGUAGE_IDS)}.')


def reduce_lyrics(text: str, content: LyricsContent) -> str:
    """What is left of a song's lyrics: [instrumental], which lyrics without a structure tag become as well, or more."""
    if content == "words":
        return text
    tags = list(_only_tags([line.strip() for line in text.split("\n")])) if content == "structure" else []
    return "\n".join(tags) if any(tags) else INSTRUMENTAL


def encode_lyrics(text: str, vocabulary: LyricVocabulary | None, language: str = "en") -> LyricTokens:
    """One song's lyrics, all lines in `language` (lines that begin with a [bracket] always in English).

    Empty text counts as [instrumental]. Without a vocabulary, lines are reduced to the tag they begin with ([Verse 2]
    to [verse]), lines of words vanish, and lyrics that have no tag count as [instrumental]. So does a line that needs
    what `clean_line` cannot do. UserError for a language that has no token.
    """
    check_language(language)
    lines = [line.strip() for line in (text or INSTRUMENTAL).split("\n")]
    dropped = vocabulary is None and any(line and line.lower() not in TAG_IDS for line in lines)
    if dropped:
        tags = list(_only_tags(lines))
        lines = tags if any(tags) else [INSTRUMENTAL]
    read, unread = list[tuple[int, ...]](), list[str]()
    for line in lines:
        try:
            read.append(_line_ids(line, vocabulary, language))
        except UserError as error:
            unread.append(str(error))
    if unread and not any(read):
        read = [_line_ids(INSTRUMENTAL, vocabulary, language)]
    ids = [START, *(number for line in read for number in (*line, SPACE))]
    return LyricTokens(np.array(ids, dtype=np.int32), dropped_words=dropped, unread=tuple(unread))


def say_unread(unread: Sequence[str], what: str) -> None:
    """One notice for all lines of `what` that were left out."""
    if unread:
        count = "1 line of lyrics is" if len(unread) == 1 else f"{len(unread)} lines of lyrics are"
        say(f"{what}: {count} left out. The first: {unread[0]}")


def _line_ids(line: str, vocabulary: LyricVocabulary | None, language: str) -> tuple[int, ...]:
    if not line:
        return ()
    if line.lower() in TAG_IDS:
        return LANGUAGE_IDS["en"], *TAG_IDS[line.lower()]
    assert vocabulary is not None, "lines of words are dropped without a vocabulary"
    return vocabulary.line_ids(line, "en" if LEADING_BRACKET.match(line) else language)


def _only_tags(lines: list[str]) -> Iterator[str]:
    for line in lines:
        bracket = LEADING_BRACKET.match(line)
        tag = f"[{bracket[1].lower()}]" if bracket else line
        if not line or tag in TAG_IDS:
            yield tag

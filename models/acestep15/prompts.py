"""A song's words as ACE-Step 1.5's text encoder takes them: templates around tags and lyrics."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.texts.lyrics import LyricsContent
from common.texts.tags import spelt

TEXT2MUSIC = "Fill the audio semantic mask based on the given conditions:"
"""What is asked of the network without a source."""
TRACKS = (
    "vocals", "backing_vocals", "drums", "bass", "guitar", "keyboard", "percussion", "strings", "synth", "fx", "brass",
    "woodwinds",
)  # fmt: skip
"""Tracks that a source can be completed with."""
UNKNOWN = "N/A"
END = "<|endoftext|>"
INSTRUMENTAL = "[Instrumental]"
TAGGED = re.compile(r"\s*\[[^\]]*\]")
"""How a line of lyrics begins that is a structure tag, such as [Verse 1]."""
LANGUAGE = re.compile(r"[a-z]{2,3}|unknown")
BPM = re.compile(r"(\d{2,3})\s*bpm", re.IGNORECASE)
KEY = re.compile(r"([A-G][b#♭♯]?)\s*(major|minor|maj|min)(?:\s+key)?", re.IGNORECASE)
METRE = re.compile(r"(\d{1,2})/(?:2|4|8|16)(?:\s+time)?")


def complete(tracks: Sequence[str] = ()) -> str:
    """What is asked of the network with a source: the tracks that it lacks, any where none is named."""
    return f"Complete the input track with {' | '.join(track.upper() for track in tracks)}:" if tracks else (
        "Complete the input track:"
    )  # fmt: skip


@dataclass(frozen=True)
class Metas:
    """What the template says of a song apart from its caption; None is written as unknown."""

    bpm: int | None = None
    keyscale: str | None = None
    """Such as "A minor"."""
    timesignature: str | None = None
    """Beats in a bar."""

    @classmethod
    def of(cls, tags: Sequence[str]) -> "Metas":
        """What tags such as "112bpm", "A minor key" and "3/4" say, the first of each kind."""
        bpm, key, metre = (_first(pattern, tags) for pattern in (BPM, KEY, METRE))
        return cls(
            bpm=int(bpm[1]) if bpm else None,
            keyscale=f"{key[1][0].upper()}{key[1][1:]} {_mode(key[2])}" if key else None,
            timesignature=metre[1] if metre else None,
        )


def text_prompt(tags: Sequence[str], *, seconds: float, instruction: str = TEXT2MUSIC) -> str:
    """Tags, all of them as the caption, for a clip of so many seconds."""
    metas = Metas.of(tags)
    return (
        f"# Instruction\n{instruction}\n\n# Caption\n{spelt(tags)}\n\n# Metas\n"
        f"- bpm: {metas.bpm or UNKNOWN}\n- timesignature: {metas.timesignature or UNKNOWN}\n"
        f"- keyscale: {metas.keyscale or UNKNOWN}\n- duration: {int(seconds)} seconds\n{END}\n"
    )


def lyrics_prompt(lyrics: str, *, language: str = "en") -> str:
    """Lyrics in any language; `[Instrumental]` stands for none."""
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}{END}"


def check_language(language: str) -> None:
    """Raises UserError for what is no code of a language."""
    if not LANGUAGE.fullmatch(language):
        raise UserError(f'lyrics language "{language}" is not a code such as en or ja, nor unknown.')


def lyrics_of(lyrics: str) -> dict[LyricsContent, str]:
    """All of a song's lyrics, their structure tags, and none of them, each as `lyrics_prompt` takes it."""
    tags = "\n".join(match[0].strip() for line in lyrics.split("\n") if (match := TAGGED.match(line)))
    is_song = lyrics.strip().lower() not in ("", INSTRUMENTAL.lower())
    return {
        "words": lyrics if is_song else INSTRUMENTAL,
        "structure": tags if tags and is_song else INSTRUMENTAL,
        "instrumental": INSTRUMENTAL,
    }


def _first(pattern: re.Pattern[str], tags: Sequence[str]) -> re.Match[str] | None:
    return next((match for tag in tags if (match := pattern.fullmatch(tag.strip()))), None)


def _mode(name: str) -> str:
    return "major" if name.lower().startswith("maj") else "minor"

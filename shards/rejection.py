"""Songs that cannot be used: why, and how it is written down."""

from typing import Literal

from common.config import Config
from common.errors import UserError

REJECTED_FILE = "rejected.jsonl"

Reason = Literal[
    "orphan_stem",  # a vocal or an inst alone: nothing to make the mix from
    "unknown_stem",  # it looks like a stem of a song, and is not named as one that is read
    "ambiguous",  # two files claim the same part of the same song, or stems may not be its whole band
    "bad_text",  # a prompt, lyrics or lead sheet that cannot be read
    "unreadable",  # audio that is missing, damaged, cut short, or no audio
    "misaligned",  # stems of different length, or shifted against the mix
    "leak",  # the vocal is in the inst, or a stem in what was left of the mix without it
    "no_sum",  # vocal and inst leave too much of the given mix
    "swapped",  # the vocal looks like a band and the inst like a voice
    "silent",  # nothing to hear in the mix
    "too_short",  # shorter than segment.min_seconds once its silence is trimmed
    "no_vocal",  # vocal activity under min_vocal_activity
    "no_separator",  # a full song, and separator.name is "none"
    "not_separated",  # the program of separator.command failed, or left nothing that can be used
    "duplicate",  # its decoded audio is that of a song before it
]


class Rejection(Config):
    """One line of rejected.jsonl: a song that is not in the shards."""

    key: str
    reason: Reason
    detail: str


class SongError(UserError):
    """A song that cannot be used, with its reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason

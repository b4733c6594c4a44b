"""Prompts as tags: what parts them, and how they are spelt for the text encoder."""

import re
from collections.abc import Iterable

SEPARATORS = ",;、，；"
TAG = re.compile(rf'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*(?=[{SEPARATORS}\n]|$)|(?P<plain>[^{SEPARATORS}\n]*))')
"""A tag: between double quotes if they surround the whole of it, as spreadsheets write them."""

JOINT = re.compile(rf"[\s{SEPARATORS}]*\n[\s{SEPARATORS}]*")


def tags_of(prompt: str) -> list[str]:
    """The tags of a prompt, parted by commas, semicolons, their East Asian forms or line breaks.

    A tag between double quotes keeps what is inside; if the whole prompt is quoted, as a cell of a table is, its inside
    is the prompt.
    """
    lines = "\n".join(prompt.splitlines()).strip()
    if (whole := TAG.fullmatch(lines)) and whole["quoted"] is not None and '"' not in whole["quoted"]:
        lines = whole["quoted"]
    return list(_tags(lines))


def _tags(lines: str) -> Iterable[str]:
    place = 0
    while place <= len(lines):
        match = TAG.match(lines, place)
        assert match is not None, "a tag may be empty"
        quoted = match["quoted"]
        tag = " ".join((match["plain"] if quoted is None else quoted.replace('""', '"')).split())
        if tag:
            yield tag
        place = match.end() + 1


def spelt(tags: Iterable[str]) -> str:
    """Tags as the text encoder hears them."""
    return ", ".join(tags)


def one_line(prompt: str) -> str:
    """A prompt as it was written, on one line that holds the same tags."""
    parted = JOINT.sub(", ", "\n".join(prompt.splitlines()).strip())
    return " ".join(parted.split())

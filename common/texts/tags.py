"""Prompts as tags: what parts them, and how they are spelt for the text encoder."""

import re
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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
    if _is_quoted(lines):
        lines = lines[1:-1]
    return list(_tags(lines))


def _is_quoted(lines: str) -> bool:
    """Whether the whole prompt is between one pair of quotes."""
    whole = TAG.fullmatch(lines)
    return whole is not None and whole["quoted"] is not None and '"' not in whole["quoted"]


def _tags(lines: str) -> Iterable[str]:
    for match in _matches(lines):
        quoted = match["quoted"]
        tag = " ".join((match["plain"] if quoted is None else quoted.replace('""', '"')).split())
        if tag:
            yield tag


def _matches(lines: str) -> Iterable[re.Match[str]]:
    place = 0
    while place <= len(lines):
        match = TAG.match(lines, place)
        assert match is not None, "a tag may be empty"
        yield match
        place = match.end() + 1


def spelt(tags: Iterable[str]) -> str:
    """Tags as the text encoder takes them."""
    return ", ".join(tags)


def one_line(prompt: str) -> str:
    """A prompt as it was written, on one line that holds the same tags."""
    lines = "\n".join(prompt.splitlines()).strip()
    if not _is_quoted(lines):  # a line break inside a quoted tag parts nothing
        for match in _matches(lines):
            start, end = match.span("quoted")
            lines = lines[:start] + lines[start:end].replace("\n", " ") + lines[end:] if start >= 0 else lines
    return " ".join(JOINT.sub(", ", lines).split())


@dataclass(frozen=True)
class FittingTags:
    """Which tags of a prompt the text encoder has room for."""

    kept: tuple[str, ...]
    dropped: tuple[str, ...]


def fitting_tags(
    fits: Callable[[str], bool],
    tags: Sequence[str],
    orders_of: Callable[[Sequence[str]], Sequence[str]] = lambda tags: [spelt(tags)],
) -> FittingTags:
    """The first tags, as many as fit in each of the orders that will be encoded; where not even the first does, of it
    as many letters."""
    fitting = bisect(range(1, len(tags) + 1), False, key=lambda count: not fits(spelt(tags[:count])))
    for count in range(fitting, 0, -1):
        if all(fits(order) for order in orders_of(tags[:count])):
            return FittingTags(tuple(tags[:count]), tuple(tags[count:]))
    first = tags[0]
    letters = bisect(range(1, len(first)), False, key=lambda count: not fits(first[:count]))
    return FittingTags((first[:letters].rstrip(),), (f"...{first[letters:].lstrip()}", *tags[1:]))

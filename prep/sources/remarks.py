"""What someone who built a folder of songs should be told about it, in a few lines however large it is."""

from collections.abc import Sequence

from common.progress import say
from prep.sources.scan import Scan

SHOWN, LISTED = 5, 20
"""Names in a line, and lines in a list."""


def named(names: Sequence[str]) -> str:
    """The first few of several names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def listed(unused: Sequence[str]) -> list[str]:
    """Lines that name files which nobody used, the first few; none where there are none."""
    if not unused:
        return []
    more = [f"  and {len(unused) - LISTED} more (prep status --json lists all)"] if len(unused) > LISTED else []
    return [f"files that nobody used: {len(unused)}", *(f"  {name}" for name in unused[:LISTED]), *more]


def say_remarks(found: Scan) -> None:
    """Say which texts are not in UTF-8, and which folders called like a part hold what is taken for full songs."""
    recoded: dict[str, list[str]] = {}
    for song in found.songs:
        for name, encoding in song.recoded.items():
            recoded.setdefault(encoding, []).append(name)
    for encoding, names in recoded.items():
        say(f"texts read as {encoding}: {len(names)} ({named(names)}).")
    if found.lone_parts:
        say(
            f"{named(found.lone_parts)}: taken for full songs, as no other part of them lies beside. If they are "
            "stems, put the other parts into a folder beside, such as inst."
        )

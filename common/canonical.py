"""One spelling for one value: JSON whose bytes depend on nothing but the content, and hashes over it."""

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any, *, indent: int | None = None) -> str:
    """JSON with sorted keys, no NaN or infinity, unicode as it is, and one newline at the end.

    Raises ValueError for NaN and infinity.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    return (
        json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)
        + "\n"
    )


def unicode_text(text: str) -> str:
    """`text` with a mark for each byte of a file name that is no UTF-8, so that it can be written anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def sha256_of(value: Any) -> str:
    """SHA-256, in hex, of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Units of a benchmark that are done: a JSON file each, written last and whole, with a hash of all that it depends on.

A benchmark that was stopped, even by `kill -9`, makes again the unit it was at, and no other.
"""

from pathlib import Path
from typing import Any

from common.canonical import canonical_json
from common.config import read_json
from common.files import whole_file


def read_unit(path: Path, order: str) -> Any | None:
    """What a unit holds; None where it is not done, or was of another `order`."""
    if not path.is_file():
        return None
    found = read_json(path)
    return found["holds"] if isinstance(found, dict) and found.get("order") == order else None


def write_unit(path: Path, order: str, holds: Any) -> None:
    """Say that a unit is done, after its other files. Raises UserError where the disk refuses."""
    with whole_file(path) as partial:
        partial.write_text(canonical_json({"order": order, "holds": holds}, indent=1), encoding="utf-8", newline="\n")

"""The header of a safetensors file, so that the same content gives the same bytes."""

import json
from pathlib import Path

LENGTH_BYTES = 8
"""The file begins with the length of its header, in little-endian order."""
METADATA = "__metadata__"


def sort_metadata(path: Path) -> None:
    """Put the metadata of a file that safetensors wrote in order, in place. Nothing else changes.

    The library keeps them in a hash map, and so writes them in another order each time.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        header[METADATA] = dict(sorted(header[METADATA].items()))
        written = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(written) == length, f"{path}: its header would change its length"
        file.seek(LENGTH_BYTES)
        file.write(written)

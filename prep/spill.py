"""Encoded songs that wait below .build until shards are packed: what a stopped build need not make again.

A file holds one song's sound, under a name that is a hash over all that decided it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from common.files import whole_file
from prep.encode import EncodedSegment
from shards.schema import SegmentAudio

ARRAYS = ("vocal", "activity", "inst", "mix")


def spill_path(folder: Path, identity: str) -> Path:
    """Where the song whose sound has this identity lies, or will."""
    return folder / f"song-{identity}.safetensors"


def write_spill(path: Path, segments: Sequence[EncodedSegment]) -> None:
    """Keep a song's segments."""
    arrays = {
        f"{number}.{name}": np.ascontiguousarray(array)  # safetensors writes memory as it lies
        for number, segment in enumerate(segments)
        for name in ARRAYS
        if (array := getattr(segment, name)) is not None
    }
    notes = {str(number): segment.audio.model_dump_json() for number, segment in enumerate(segments)}
    with whole_file(path) as partial:
        partial.write_bytes(save(arrays, notes))


def read_spill(path: Path) -> list[EncodedSegment]:
    """A song's segments, in order."""
    with safe_open(path, framework="np") as file:
        notes, names = file.metadata(), set(file.keys())
        return [
            EncodedSegment(
                SegmentAudio.model_validate_json(notes[str(number)], strict=True),
                **{name: file.get_tensor(f"{number}.{name}") for name in ARRAYS if f"{number}.{name}" in names},
            )
            for number in range(len(notes))
        ]

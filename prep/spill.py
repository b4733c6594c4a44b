"""Encoded songs that wait below .build until shards are packed: what a stopped build need not make again.

A file holds one song's sound, under a name that is a hash over all that decided it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from common.files import whole_file
from prep.encode import EncodedSegment
from shards.schema import ARRAYS, SegmentAudio

SOUND = "sound_sha256"


@dataclass(frozen=True)
class Spill:
    """One song's sound."""

    segments: tuple[EncodedSegment, ...]
    sound_sha256: str
    """As in the samples."""


def spill_path(folder: Path, identity: str) -> Path:
    """Where the song whose sound has this identity lies, or will."""
    return folder / f"song-{identity}.safetensors"


def segment_arrays(segment: EncodedSegment) -> dict[str, np.ndarray]:
    """The arrays that a segment has, by name."""
    found = {field.name: getattr(segment, field.name) for field in fields(segment) if field.name != "audio"}
    return {name: array for name, array in found.items() if array is not None}


def write_spill(path: Path, segments: Sequence[EncodedSegment], sound_sha256: str) -> None:
    """Keep a song's segments."""
    arrays = {
        f"{number}.{name}": np.ascontiguousarray(array)  # safetensors writes memory as it lies
        for number, segment in enumerate(segments)
        for name, array in segment_arrays(segment).items()
    }
    notes = {str(number): segment.audio.model_dump_json() for number, segment in enumerate(segments)}
    notes[SOUND] = sound_sha256
    with whole_file(path) as partial:
        partial.write_bytes(save(arrays, notes))


def read_spill(path: Path) -> Spill:
    """What `write_spill` kept."""
    with safe_open(path, framework="np") as file:
        notes, names = file.metadata(), set(file.keys())
        sound = notes.pop(SOUND)
        segments = [
            EncodedSegment(
                SegmentAudio.model_validate_json(notes[str(number)], strict=True),
                **{name: file.get_tensor(f"{number}.{name}") for name in ARRAYS if f"{number}.{name}" in names},
            )
            for number in range(len(notes))
        ]
    return Spill(tuple(segments), sound)

"""Encoded segments that wait below .build until shards are packed: what a stopped build need not make again.

A file holds one segment's sound. Its name is its number in the song and a hash over all that decided the song's sound,
so it is of use to every build that would make the same, and to no other. Decoded waves are not kept: a song that
was stopped half way is read again, and only the segments that are not there are encoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from common.files import whole_file
from common.safetensors_header import sort_metadata
from prep.encoding.encode import EncodedSegment
from shards.schema import ARRAYS, SegmentAudio

AUDIO, SEGMENTS, SOUND = "audio", "segments", "sound_sha256"


@dataclass(frozen=True)
class SegmentCache:
    """A song's segments on the disk, as many as were finished."""

    folder: Path
    identity: str
    """Of the song's sound (prep/building/identity.py)."""

    def path(self, number: int) -> Path:
        """Where a segment lies, or will."""
        return self.folder / f"song-{self.identity}-{number:03d}.safetensors"

    def finished(self) -> frozenset[int]:
        """Numbers of the segments that are there."""
        paths = self.folder.glob(f"song-{self.identity}-*.safetensors")
        return frozenset(int(path.stem.rpartition("-")[2]) for path in paths)

    def is_whole(self) -> bool:
        """Whether all of the song's segments are there."""
        finished = self.finished()
        return bool(finished) and len(finished) == int(self._notes(min(finished))[SEGMENTS])

    def write(self, number: int, segment: EncodedSegment, *, segments: int, sound_sha256: str) -> None:
        """Keep a segment of a song that has so many. Raises UserError where the disk refuses it."""
        arrays = {name: np.ascontiguousarray(array) for name, array in segment.arrays.items()}
        notes = {AUDIO: segment.audio.model_dump_json(), SEGMENTS: str(segments), SOUND: sound_sha256}
        with whole_file(self.path(number)) as partial:
            partial.write_bytes(save(arrays, notes))  # it writes memory as it lies
            sort_metadata(partial)

    def read(self) -> Iterator[EncodedSegment]:
        """The segments of a whole song, in order."""
        for number in range(len(self.finished())):
            with safe_open(self.path(number), framework="np") as file:
                audio, names = SegmentAudio.model_validate_json(file.metadata()[AUDIO], strict=True), set(file.keys())
                arrays = {name: file.get_tensor(name) for name in ARRAYS if name in names}
            yield EncodedSegment(audio, arrays)

    @property
    def sound_sha256(self) -> str:
        """As in the samples of a whole song."""
        return self._notes(0)[SOUND]

    def _notes(self, number: int) -> dict[str, str]:
        with safe_open(self.path(number), framework="np") as file:
            return file.metadata()

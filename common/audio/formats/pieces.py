"""The bytes of an audio file that one decoder reads from end to end: most files are one piece, joined ones several.

A header's word on its length is a guess. Each format's own module finds the pieces, and so where the audio ends.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np

WINDOW_BYTES = 1 << 18
"""Read at once, by whoever looks at a few bytes here and there."""
NO_LENGTH_BYTES = 1 << 30
"""A piece without end looks this much longer: a decoder's guess from it can then be no limit."""
ID3V1_BYTES = 128


@dataclass(frozen=True)
class AudioStream:
    """A file being decoded; `blocks` can be read once, inside the `with` that opened it."""

    rate_hz: int
    channels: int
    blocks: Iterator[np.ndarray]


class FileBytes:
    """A file's bytes at any offset; `name` is what errors call it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.size = file, name, file.seek(0, io.SEEK_END)
        self._window, self._offset = b"", 0

    def at(self, offset: int, count: int) -> bytes:
        """The bytes from `offset`; fewer at the file's end."""
        start = offset - self._offset
        if not 0 <= start <= start + count <= len(self._window):
            self.file.seek(offset)
            self._window, self._offset, start = self.file.read(max(count, WINDOW_BYTES)), offset, 0
        return self._window[start : start + count]

    def find(self, wanted: bytes, start: int) -> int:
        """Where `wanted` comes next; the file's size where it does not."""
        while start < self.size:
            window = self.at(start, WINDOW_BYTES)
            if (found := window.find(wanted)) >= 0:
                return start + found
            start += max(len(window) - len(wanted) + 1, 1)
        return self.size


@dataclass(frozen=True)
class RawFormat:
    """How samples lie in a piece that is read without its header; names are soundfile's."""

    rate_hz: int
    channels: int
    subtype: str
    endian: Literal["little", "big"]


@dataclass(frozen=True)
class AudioPiece:
    """Bytes `start` to `end` of a file, behind `prefix`, which stands for what was there."""

    start: int
    end: int
    prefix: bytes = b""
    samples: int | None = None
    """Samples of one channel that are in it, where its bytes tell; None where the decoder has to say."""
    open_ended: bool = False
    """Whether the decoder must be kept from guessing a length, and stop only where the bytes do."""
    all_there: bool = False
    """Whether each of its frames or pages was seen: if less can be decoded, it was not cut but damaged."""
    raw: RawFormat | None = None


class PieceFile:
    """A piece as a file that libsndfile can read, and only read."""

    def __init__(self, file: BinaryIO, piece: AudioPiece) -> None:
        self._file, self._piece, self._position = file, piece, 0
        self._held = len(piece.prefix) + piece.end - piece.start
        self._size = self._held + NO_LENGTH_BYTES * piece.open_ended
        self.error: OSError | None = None
        """What the system said no to: libsndfile cannot pass it on."""

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer with what comes next. Of a length that is made up, only a last tag's place can be read."""
        try:
            found = self._read(len(buffer))
        except OSError as error:
            self.error, found = error, b""
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _read(self, count: int) -> bytes:
        if self._position >= self._held:
            return bytes(min(count, self._size - self._position)) if self._in_last_tag() else b""
        ahead = self._piece.prefix[self._position : self._position + count]
        offset = max(self._position - len(self._piece.prefix), 0) + self._piece.start
        self._file.seek(offset)
        return ahead + self._file.read(min(count - len(ahead), self._piece.end - offset))

    def _in_last_tag(self) -> bool:
        return self._piece.open_ended and self._size - ID3V1_BYTES <= self._position < self._size


def tag_bytes(data: FileBytes, offset: int) -> int:
    """Length of the ID3, APE or Lyrics3 tag that begins here, up to the file's end; 0 where none does."""
    return min(_tag_bytes(data, offset), data.size - offset)


def _tag_bytes(data: FileBytes, offset: int) -> int:
    head = data.at(offset, 32)
    if head.startswith(b"ID3") and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return size + (20 if head[5] & 0x10 else 10)
    if head.startswith(b"TAG"):
        return 227 if head.startswith(b"TAG+") else ID3V1_BYTES
    if head.startswith(b"APETAGEX"):
        return 32 + int.from_bytes(head[12:16], "little")
    if head.startswith(b"LYRICSBEGIN"):
        return data.find(b"LYRICS200", offset) + 9 - offset
    return 0


def after_tags(data: FileBytes, offset: int = 0) -> int:
    """Where the tags that begin here end."""
    while offset < data.size and (size := tag_bytes(data, offset)):
        offset += size
    return offset

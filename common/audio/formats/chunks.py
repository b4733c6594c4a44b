"""WAV, AIFF, CAF and their like, chunk by chunk: does the audio end where the header says?

A recorder that was stopped never wrote the length, and 32 bits hold no more than 4 GiB of it. What comes after the
audio, and is no chunk, is more audio.
"""

from dataclasses import dataclass
from typing import Literal

from common.audio.formats.pieces import FileBytes, tag_bytes

PADDING_BYTES = 1 << 16
"""So many zeros after the audio are no audio."""
MAY_BE_CUT = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"JUNK", b"_PMX", b"APPL", b"info", b"free", b"uuid")
"""Chunks that hold words and pictures: nobody misses their end."""
UNWRITTEN = 0x7FFFFF00
"""A length of 32 bits from here on stands for one that was not known."""
JOINED = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"riff")
_W64 = bytes.fromhex("2e91cf11a5d628db04c10000"), bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""The rest of a W64 file's names: of the first, and of all others."""


@dataclass(frozen=True)
class Layout:
    """How a kind of file writes its chunks."""

    endian: Literal["little", "big"]
    first: int = 12
    """Where its first chunk begins."""
    name: int = 4
    length: int = 4
    counts_itself: bool = False
    """Whether a chunk's length counts its name and itself."""
    step: int = 2
    """Chunks begin at multiples of it."""
    audio: bytes = b"data"
    before: int = 0
    """Bytes in the audio's chunk before the audio."""
    is_wave: bool = True


_RIFF = Layout("little")
LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"RIFX": Layout("big"),
    b"FORM": Layout("big", audio=b"SSND", before=8, is_wave=False),
    b"caff": Layout("big", first=8, length=8, step=1, before=4, is_wave=False),
    b"riff": Layout("little", first=40, name=16, length=8, counts_itself=True, step=8),
}


@dataclass(frozen=True)
class Extent:
    """Where a file's audio lies."""

    start: int
    end: int
    """Where its header says that it ends, at most the file's end."""
    joined: int | None
    """Where a file begins that was joined to it."""
    goes_on: bool
    """Whether what follows is no chunk, and so more audio."""
    endian: Literal["little", "big"]
    is_wave: bool
    missing: int
    """Bytes that its header says and the file does not hold; 0 where the length was never written."""
    unsaid_at: int | None
    """Where eight bytes say that the audio goes to the file's end, which libsndfile does not understand (CAF)."""


def extent_of(data: FileBytes, start: int = 0) -> Extent | None:
    """Where the audio lies of the file that begins at `start`; None where it is of another kind, or has none."""
    layout = LAYOUTS.get(data.at(start, 4))
    if layout is None:
        return None
    position, wide = start + layout.first, None
    while position < data.size:
        name, size, behind = _chunk(data, position, layout)
        if name == b"ds64":
            wide = int.from_bytes(data.at(behind + 8, 8), "little")
        if name == layout.audio:
            size = wide if wide is not None and size == 0xFFFFFFFF else size
            end = min(behind + size, data.size)
            joined, goes_on = _after(data, end + -(end - start) % layout.step, layout)
            if goes_on:  # or nobody filled up to an even number
                joined, goes_on = _after(data, end, layout)
            unsaid = behind - 8 if layout.length == 8 and size == 0xFFFFFFFF_FFFFFFFF else None
            written = unsaid is None and (layout.length == 8 or size < UNWRITTEN)
            missing = max(behind + size - data.size, 0) if written else 0
            return Extent(behind + layout.before, end, joined, goes_on, layout.endian, layout.is_wave, missing, unsaid)
        position = behind + size + -size % layout.step
    return None


def _chunk(data: FileBytes, position: int, layout: Layout) -> tuple[bytes, int, int]:
    """Its name, the bytes in it, and where they begin."""
    head = data.at(position, layout.name + layout.length)
    behind = position + len(head)
    size = int.from_bytes(head[layout.name :], layout.endian)
    return head[:4], max(size - len(head), 0) if layout.counts_itself else size, behind


def _after(data: FileBytes, position: int, layout: Layout) -> tuple[int | None, bool]:
    """What comes after the audio: where another file begins, and whether there is what is no chunk."""
    while data.size - position >= layout.name + layout.length:
        name, size, behind = _chunk(data, position, layout)
        if name in JOINED:
            return position, False
        if not _is_chunk(data, position, name, behind + size, layout):
            return None, not _is_padding(data, position)
        position = behind + size + -size % layout.step
    return None, False


def _is_chunk(data: FileBytes, position: int, name: bytes, end: int, layout: Layout) -> bool:
    if layout.name == 16 and data.at(position + 4, 12) != _W64[1]:
        return False
    readable = len(name) == 4 and all(0x20 <= letter < 0x7F for letter in name)
    return readable and (end <= data.size or name in MAY_BE_CUT)


def _is_padding(data: FileBytes, position: int) -> bool:
    rest = data.size - position
    return tag_bytes(data, position) > 0 or (rest <= PADDING_BYTES and not any(data.at(position, rest)))

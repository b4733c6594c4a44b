"""Ogg files, page by page: where each of the streams that were chained begins and ends, and whether it is all there."""

import zlib

from common.audio.formats.pieces import AudioPiece, FileBytes
from common.errors import UserError

MAGIC = b"OggS"
HEADER_BYTES = 27
FIRST, LAST = 2, 4
"""Flags of a stream's first and last page."""
CHECKSUM_AT = 22
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_pieces(data: FileBytes, start: int) -> tuple[AudioPiece, ...]:
    """The links of a chain, one after the other; `start` is where the first begins.

    Raises UserError where one has no last page, or bytes that are no page lie inside.
    """
    pieces, position = list[AudioPiece](), start
    unfinished, begun = set[bytes](), False
    while position < data.size:
        end = _page_end(data, position)
        if end is None:
            following = data.find(MAGIC, position + 1)
            if unfinished and following < data.size:
                size = following - position
                raise UserError(f"{data.name}: damaged ({size} bytes at byte {position} are no page). Export it again.")
            position = following
            continue
        header = data.at(position, HEADER_BYTES)
        if checksum(data.at(position, end - position)) != int.from_bytes(
            header[CHECKSUM_AT : CHECKSUM_AT + 4], "little"
        ):
            raise UserError(f"{data.name}: damaged (the page at byte {position} was changed). Export it again.")
        flags, serial = header[5], header[14:18]
        if flags & FIRST and begun:
            _check_finished(data, unfinished)
            pieces.append(AudioPiece(start, position, all_there=True))
            start, begun = position, False
        begun = begun or not flags & FIRST
        unfinished |= {serial} if flags & FIRST else set()
        unfinished -= {serial} if flags & LAST else set()
        position = end
    _check_finished(data, unfinished)
    return (*pieces, AudioPiece(start, data.size, all_there=True))


def _page_end(data: FileBytes, position: int) -> int | None:
    """Where the page that begins here ends; None where none does, or the file ends first."""
    header = data.at(position, HEADER_BYTES)
    if not header.startswith(MAGIC) or len(header) < HEADER_BYTES:
        return None
    sizes = data.at(position + HEADER_BYTES, header[26])
    end = position + HEADER_BYTES + len(sizes) + sum(sizes)
    return end if len(sizes) == header[26] and end <= data.size else None


def checksum(page: bytes) -> int:
    """A page's checksum, whose own place counts as zeros: zlib's, with each byte and the result read backwards."""
    blank = page[:CHECKSUM_AT] + bytes(4) + page[CHECKSUM_AT + 4 :]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _check_finished(data: FileBytes, unfinished: set[bytes]) -> None:
    if unfinished:
        raise UserError(f"{data.name}: cut short, its last page is missing. Export it again.")

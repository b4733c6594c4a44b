"""FLAC files: the number of samples that their header gives is compared with those that are there, and is no limit."""

from common.audio.formats.pieces import AudioPiece, FileBytes

MAGIC = b"fLaC"
BEGIN = b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"
"""A file begins so: the mark, and the header of its first block, which may be the last."""
TOTAL_AT, TOTAL_BITS = 18, 36
"""Where eight bytes hold rate, channels, bits of a sample and, in the last 36 bits, samples."""
HEADER_BYTES = 42


def flac_pieces(data: FileBytes, start: int) -> tuple[AudioPiece, ...]:
    """The files that were joined; `start` is where the first begins."""
    pieces = list[AudioPiece]()
    while start < data.size:
        end = min(data.find(begin, start + 4) for begin in BEGIN)
        pieces.append(_piece(data, start, end))
        start = end
    return tuple(pieces)


def _piece(data: FileBytes, start: int, end: int) -> AudioPiece:
    header = data.at(start, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return AudioPiece(start, end)
    most = (1 << TOTAL_BITS) - 1
    packed = int.from_bytes(header[TOTAL_AT : TOTAL_AT + 8], "big")
    prefix = header[:TOTAL_AT] + (packed | most).to_bytes(8, "big") + header[TOTAL_AT + 8 :]
    return AudioPiece(start + HEADER_BYTES, end, prefix=prefix, samples=packed & most)

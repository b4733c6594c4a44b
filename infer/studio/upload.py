"""A recording that comes in: bounded while it streams, told by its content, and kept as a wave.

What a file is called says nothing of what it is, and is never part of a path.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.audio.decode import AudioStream, audio_stream
from common.audio.wave import to_stereo, write_audio_blocks
from common.errors import UserError

BYTES_A_SECOND = 600_000
"""Of the largest recording that is taken: 96 kHz, stereo, 24 bits, and what surrounds it."""
OTHER_BYTES = 1_000_000
"""Pictures and texts that a file may hold besides."""
HEAD_BYTES = 12
LONGEST_NAME = 80
STARTS = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"FORM": "AIFF",
    b"ID3": "MP3",
    b"\x1a\x45\xdf\xa3": "WebM",
    b"caff": "CAF",
}
"""How files of each kind begin."""
MPEG_SYNC = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2", b"\xff\xf1", b"\xff\xf9")
KINDS = "WAV, FLAC, MP3, Ogg, AIFF, CAF, M4A or WebM"


class TooLargeError(UserError):
    """More was sent than is taken."""


def largest_upload(max_seconds: float) -> int:
    """Bytes."""
    return round(max_seconds * BYTES_A_SECOND) + OTHER_BYTES


def shown_name(name: str) -> str:
    """A file's name as text: one line, not too long, without what a terminal or a page would obey."""
    text = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(text.split())[:LONGEST_NAME] or "recording"


async def receive_upload(chunks: AsyncIterator[bytes], path: Path, *, limit: int) -> None:
    """Write what comes to `path`; nothing is kept of what is larger than `limit` bytes.

    Raises TooLargeError for that, and UserError where the disk refuses.
    """
    received = 0
    try:
        with path.open("wb") as file:
            async for chunk in chunks:
                received += len(chunk)
                if received > limit:
                    raise TooLargeError(f"more than {limit / 1e6:.0f} MB, which is the most. Give a shorter one.")
                file.write(chunk)
    except OSError as error:
        raise UserError(f"the recording cannot be kept ({error.strerror}). Make room.") from error


def kind_of(head: bytes) -> str | None:
    """What a file is by its first HEAD_BYTES bytes; None for what is no audio that is taken."""
    if head[4:8] == b"ftyp":
        return "M4A"
    if head.startswith(MPEG_SYNC):
        return "MP3"
    return next((kind for start, kind in STARTS.items() if head.startswith(start)), None)


def keep_recording(source: Path, wave: Path, *, name: str, max_seconds: float) -> None:
    """Decode an upload called `name` and write it to `wave`, at its own rate, mono or stereo, as floats.

    Decoding ends as soon as it is longer than `max_seconds`. Raises UserError for that, for what is no audio, and for
    what is damaged.
    """
    with source.open("rb") as file:
        if kind_of(file.read(HEAD_BYTES)) is None:
            raise UserError(f"{name}: is no {KINDS}. Give one of these.")
    try:
        with audio_stream(source) as stream:
            blocks = _bounded(stream, max_seconds)
            if stream.channels > 2:
                blocks = map(to_stereo, blocks)
            channels = min(stream.channels, 2)
            write_audio_blocks(wave, blocks, stream.rate_hz, channels=channels, subtype="FLOAT")
    except UserError as error:
        raise UserError(str(error).replace(source.name, name)) from None


def _bounded(stream: AudioStream, max_seconds: float) -> Iterator[np.ndarray]:
    samples = 0
    for block in stream.blocks:
        samples += block.shape[1]
        if samples > max_seconds * stream.rate_hz:
            raise UserError(f"is longer than {max_seconds:g} s, which is the most (--max-seconds). Cut it.")
        yield block


def cut_wave(source: Path, wave: Path, *, start_seconds: float, end_seconds: float) -> None:
    """Write a part of a wave. Raises UserError where the disk refuses."""
    with audio_stream(source) as stream:
        first, last = (round(seconds * stream.rate_hz) for seconds in (start_seconds, end_seconds))
        cut = replace(stream, blocks=_cut(stream.blocks, first, last))
        write_audio_blocks(wave, cut.blocks, cut.rate_hz, channels=cut.channels, subtype="FLOAT")


def _cut(blocks: Iterator[np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
    at = 0
    for block in blocks:
        part = block[:, max(first - at, 0) : max(last - at, 0)]
        if part.shape[1]:
            yield part
        at += block.shape[1]

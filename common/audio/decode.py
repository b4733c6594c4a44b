"""Audio files as streams of blocks: soundfile first, ffmpeg for what it cannot read.

A block is float32 [c, n]: c channels, at most n samples, so that a reader need never hold a whole song. A file is read
until its audio ends: of what a header says of the length, only that there should be more is believed.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile

from common.audio.formats import flac, ogg
from common.audio.formats.chunks import LAYOUTS, Extent, extent_of
from common.audio.formats.ffmpeg import check_single, ffmpeg_stream
from common.audio.formats.flac import flac_pieces
from common.audio.formats.mp3 import mp3_pieces
from common.audio.formats.ogg import ogg_pieces
from common.audio.formats.pieces import AudioPiece, AudioStream, FileBytes, PieceFile, RawFormat, after_tags
from common.errors import UserError

BLOCK_SAMPLES = 1 << 18
"""Samples of one channel in a block: about six seconds."""
MISSING_SECONDS = 0.05
"""A file that ends this much before its own header says is cut short."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
"""Rates outside are a damaged header's."""
UNKNOWN_BYTES = 0x7FFFF000
"""A chunk of 32-bit length that claims this or more, and more than there is, was written to a pipe."""
SHORTER_CHUNK = re.compile(
    r"^ *(?:data|SSND|Data Size|riff) *: (?P<said>\d+) \(should be (?P<there>\d+)\)", re.MULTILINE
)
SHORTER_RF64 = re.compile(r"frame count (?P<there>\d+) does not match value from 'ds64' chunk of (?P<said>\d+)")
"""What libsndfile notes of WAV, AIFF, AU, W64 and RF64 files that hold less than their headers say."""
UNKNOWN_SAMPLES, UNKNOWN_SECONDS = (1 << 36) - 1, 1e6
"""libsndfile says more of a file whose header gives no length; so does FLAC's longest."""
RAW_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}
"""Bytes of a sample that needs no header, by soundfile's name of its kind."""
MPEG_SUFFIXES = (".mp3", ".mp2", ".mp1", ".mpga")
SOUNDFILE_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".caf",
    ".w64",
    ".rf64",
)
FFMPEG_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ape", ".wv", ".tta", ".ac3", ".amr")
AUDIO_SUFFIXES = frozenset(SOUNDFILE_SUFFIXES + FFMPEG_SUFFIXES)
"""Names, in lower case, that are taken for audio."""


class _Forward(soundfile.SoundFile):
    """A file that is read from start to end: soundfile would seek after each read, which MP3 does not survive whole."""

    def seekable(self) -> bool:
        return False


@contextmanager
def audio_stream(path: Path, *, block_samples: int = BLOCK_SAMPLES) -> Generator[AudioStream]:
    """Open a file for decoding.

    Raises UserError, here or while blocks are read, for a file that is missing, empty, damaged, cut short, no audio,
    or holds NaN or infinity. Its text names the file without its folder.
    """
    with _opened(path) as data:
        known = _pieces(data)
        pieces = known or (AudioPiece(0, data.size),)
        reason, form = _form(data, pieces[0])
        if form is None:
            check_single(data)
            _check_audio_is_there(path, data)
            with ffmpeg_stream(path, block_samples, soundfile_says=reason) as stream:
                yield _checked_stream(path, stream)
            return
        if form.kind == "MP3" and not known:
            raise UserError(f"{path.name}: damaged (no MPEG frames that follow one another). Export it again.")
        blocks = _piece_blocks(data, pieces, form, block_samples)
        yield _checked_stream(path, AudioStream(form.rate_hz, form.channels, blocks))


def _check_audio_is_there(path: Path, data: FileBytes) -> None:
    """ffmpeg ends without a word where a file was cut between two of its packets."""
    extent = extent_of(data)
    if extent is not None and extent.missing:
        raise UserError(f"{path.name}: cut short, {extent.missing} bytes of its audio are missing. Export it again.")


def audio_seconds(path: Path) -> float:
    """How long a file is, to a frame, and undecoded where its bytes tell. Raises UserError as `audio_stream` does."""
    with _opened(path) as data:
        forms = [(piece, _form(data, piece)[1]) for piece in _pieces(data)]
    lengths = [0.0 if form is None else (piece.samples or form.samples) / form.rate_hz for piece, form in forms]
    if lengths and all(0 < length < UNKNOWN_SECONDS for length in lengths):
        return sum(lengths)
    with audio_stream(path) as stream:
        return sum(block.shape[1] for block in stream.blocks) / stream.rate_hz


@contextmanager
def _opened(path: Path) -> Generator[FileBytes]:
    if not path.is_file():
        raise UserError(f"{path.name}: {'is not a file' if path.exists() else 'no such file'}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name}: is empty (0 bytes).")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror}).") from None
    with file:
        yield FileBytes(file, path.name)


def _pieces(data: FileBytes) -> tuple[AudioPiece, ...]:
    """What to read, one after the other; () where only a decoder can tell.

    Raises UserError for a file of which something is missing.
    """
    try:
        start = after_tags(data)
        magic = data.at(start, 4)
        if magic == ogg.MAGIC:
            return ogg_pieces(data, start)
        if magic == flac.MAGIC:
            return flac_pieces(data, start)
        if magic in LAYOUTS:
            return tuple(_chunk_pieces(data, start))
        named = Path(data.name).suffix.lower() in MPEG_SUFFIXES
        return mp3_pieces(data, search=named)
    except OSError as error:
        raise _unreadable(data, error) from None


def _unreadable(data: FileBytes, error: OSError) -> UserError:
    return UserError(f"{data.name}: cannot be read ({error.strerror}).")


def _chunk_pieces(data: FileBytes, start: int | None) -> Iterator[AudioPiece]:
    while start is not None:
        extent = extent_of(data, start)
        if extent is not None and extent.unsaid_at is not None:
            at = extent.unsaid_at
            prefix = data.at(start, at - start) + (data.size - at - 8).to_bytes(8, extent.endian)
            yield AudioPiece(at + 8, data.size, prefix=prefix)
            return
        if extent is None or not extent.goes_on:
            joined = extent.joined if extent else None
            yield AudioPiece(start, joined or data.size)
            start = joined
            continue
        yield _unmeasured(data, start, extent)
        return


def _unmeasured(data: FileBytes, start: int, extent: Extent) -> AudioPiece:
    """All from the first sample to the file's end, of a file whose header gives it no length, or too little."""
    whole = AudioPiece(start, data.size)
    reason, form = _form(data, whole)
    if form is None:
        raise UserError(f"{data.name}: cannot be read to its end, which its header does not tell ({reason}).")
    sample_bytes = RAW_BYTES.get(form.subtype, 0) * form.channels
    more = data.size - extent.end
    if sample_bytes and more < MISSING_SECONDS * form.rate_hz * sample_bytes:
        return whole
    if not sample_bytes or not extent.is_wave:
        after = f"{more} bytes follow that are no chunk"
        raise UserError(f"{data.name}: goes on after the end that its header tells ({after}). Export it again.")
    raw = RawFormat(form.rate_hz, form.channels, form.subtype, extent.endian)
    return AudioPiece(extent.start, data.size, samples=(data.size - extent.start) // sample_bytes, raw=raw)


@dataclass(frozen=True)
class _Form:
    """What soundfile says of a piece; `samples` may be its guess."""

    rate_hz: int
    channels: int
    samples: int
    kind: str
    subtype: str


def _form(data: FileBytes, piece: AudioPiece) -> tuple[str, _Form | None]:
    """Why soundfile cannot read a piece, or what it says of it."""
    file = PieceFile(data.file, piece)
    try:
        with _open(file, piece) as opened:
            return "", _Form(opened.samplerate, opened.channels, opened.frames, opened.format, opened.subtype)
    except soundfile.LibsndfileError as error:
        if file.error is not None:
            raise _unreadable(data, file.error) from None
        return _reason(error), None


def _open(file: PieceFile, piece: AudioPiece) -> _Forward:
    source, raw = cast(BinaryIO, file), piece.raw
    if raw is None:
        return _Forward(source)
    endian = "BIG" if raw.endian == "big" else "LITTLE"
    return _Forward(source, "r", raw.rate_hz, raw.channels, raw.subtype, endian, "RAW")


def _check_whole(data: FileBytes, opened: soundfile.SoundFile) -> None:
    """Raises UserError for a file that holds less than its header says (libsndfile takes what there is)."""
    notes = opened.extra_info
    for found in (*SHORTER_CHUNK.finditer(notes), *SHORTER_RF64.finditer(notes)):
        said, there = int(found["said"]), int(found["there"])
        if there < said < UNKNOWN_BYTES:
            _check_length(data, opened.samplerate, opened.frames, round(opened.frames * said / max(there, 1)))


def _check_length(data: FileBytes, rate_hz: int, found: int, said: int) -> None:
    if said - found > MISSING_SECONDS * rate_hz:
        seconds, of = found / rate_hz, said / rate_hz
        raise UserError(f"{data.name}: cut short, it ends after {seconds:.2f} s of {of:.2f} s. Export it again.")


def _checked_stream(path: Path, stream: AudioStream) -> AudioStream:
    if not LOWEST_RATE_HZ <= stream.rate_hz <= HIGHEST_RATE_HZ:
        allowed = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz can be read"
        raise UserError(f"{path.name}: says that its rate is {stream.rate_hz} Hz ({allowed}). Export it again.")
    return replace(stream, blocks=_checked(path, stream.blocks))


def _checked(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    samples = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError(f"{path.name}: holds NaN or infinite samples. Export it again.")
        samples += block.shape[1]
        yield block
    if samples == 0:
        raise UserError(f"{path.name}: holds no audio (0 samples).")


def _piece_blocks(
    data: FileBytes, pieces: tuple[AudioPiece, ...], form: _Form, block_samples: int
) -> Iterator[np.ndarray]:
    done = 0
    for piece in pieces:
        own = _form(data, piece)[1]
        if own is None or (own.rate_hz, own.channels) != (form.rate_hz, form.channels):
            was = f"{form.rate_hz} Hz and {_channels(form.channels)}"
            now = "what cannot be decoded" if own is None else f"{own.rate_hz} Hz and {_channels(own.channels)}"
            seconds = done / form.rate_hz
            raise UserError(f"{data.name}: changes from {was} to {now} after {seconds:.2f} s. Export it as one.")
        for block in _blocks(data, piece, block_samples):
            done += block.shape[1]
            yield block


def _channels(count: int) -> str:
    return f"{count} channel{'s' if count > 1 else ''}"


def _blocks(data: FileBytes, piece: AudioPiece, block_samples: int) -> Iterator[np.ndarray]:
    """One piece. What its bytes or its header say of its samples must be there, and what is there is read."""
    file = PieceFile(data.file, piece)
    with _open(file, piece) as opened:
        _check_whole(data, opened)
        said, done = piece.samples or (0 if piece.open_ended else opened.frames), 0
        said = said if said < UNKNOWN_SAMPLES else 0
        while True:
            try:
                wanted = min(block_samples, said - done) if done < said else block_samples
                block = opened.read(wanted, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                if file.error is not None:
                    raise _unreadable(data, file.error) from None
                if 0 < said == done:
                    break  # behind the last sample
                raise UserError(f"{data.name}: damaged ({_reason(error)}). Export it again.") from None
            if file.error is not None:
                raise _unreadable(data, file.error)
            if not len(block):
                break
            done += len(block)
            yield np.ascontiguousarray(block.T)
        if piece.all_there and said - done > MISSING_SECONDS * opened.samplerate:
            only = f"only {done / opened.samplerate:.2f} s of {said / opened.samplerate:.2f} s can be decoded"
            raise UserError(f"{data.name}: damaged ({only}). Export it again.")
        _check_length(data, opened.samplerate, done, said)


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").strip(" .")

"""Audio files as streams of blocks: soundfile first, ffmpeg for what it cannot read.

A block is float32 [c, n]: c channels, at most n samples, so that a reader need never hold a whole song.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import soundfile

from common.errors import UserError

BLOCK_SAMPLES = 1 << 18
"""Samples of one channel in a block: about six seconds."""
MISSING_SECONDS = 0.05
"""A file that ends this much before its own header says is cut short."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
"""Rates outside are a damaged header's."""
UNKNOWN_LENGTH = 1 << 60
"""libsndfile says at least this of a FLAC file that was written to a pipe, and then fails at its end."""
UNKNOWN_BYTES = 0x7FFFFF00
"""A chunk of 32-bit length that claims more than this and more than there is was written to a pipe."""
SHORTER_CHUNK = re.compile(
    r"^ *(?:data|SSND|Data Size|riff) *: (?P<said>\d+) \(should be (?P<there>\d+)\)", re.MULTILINE
)
SHORTER_RF64 = re.compile(r"frame count (?P<there>\d+) does not match value from 'ds64' chunk of (?P<said>\d+)")
"""What libsndfile notes of WAV, AIFF, AU, W64 and RF64 files that hold less than their headers say."""
OGG_PAGE_BYTES = 65_307
OGG_LAST = 4
"""Longest page of an Ogg file, and the flag of its last one."""
SOUNDFILE_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64")
FFMPEG_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".ape", ".wv", ".tta", ".ac3", ".amr")
AUDIO_SUFFIXES = frozenset(SOUNDFILE_SUFFIXES + FFMPEG_SUFFIXES)
"""Names, in lower case, that are taken for audio."""


@dataclass(frozen=True)
class AudioStream:
    """A file being decoded; `blocks` can be read once, inside the `with` that opened it."""

    rate_hz: int
    channels: int
    blocks: Iterator[np.ndarray]


@contextmanager
def audio_stream(path: Path, *, block_samples: int = BLOCK_SAMPLES) -> Generator[AudioStream]:
    """Open a file for decoding.

    Raises UserError, here or while blocks are read, for a file that is missing, empty, damaged, cut short, no audio,
    or holds NaN or infinity. Its text names the file without its folder.
    """
    if not path.is_file():
        raise UserError(f"{path.name}: {'is not a file' if path.exists() else 'no such file'}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name}: is empty (0 bytes).")
    opened = _open_soundfile(path)
    if isinstance(opened, str):
        with _ffmpeg_stream(path, block_samples, soundfile_says=opened) as stream:
            yield stream
        return
    with opened:
        _check_whole(path, opened)
        blocks = _soundfile_blocks(path, opened, block_samples)
        yield _checked_stream(path, opened.samplerate, opened.channels, blocks)


def _open_soundfile(path: Path) -> soundfile.SoundFile | str:
    """The opened file, or why soundfile cannot read it."""
    try:
        opened = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        return _reason(error)
    if opened.frames < UNKNOWN_LENGTH:
        return opened
    opened.close()
    return "its length is unknown"


def _check_whole(path: Path, opened: soundfile.SoundFile) -> None:
    """Raise UserError for a file that holds less than its header says (libsndfile takes what there is)."""
    notes = opened.extra_info
    for found in (*SHORTER_CHUNK.finditer(notes), *SHORTER_RF64.finditer(notes)):
        said, there = int(found["said"]), int(found["there"])
        if there < said < UNKNOWN_BYTES:
            _check_length(path, opened, opened.frames, round(opened.frames * said / max(there, 1)))
    if opened.format == "OGG" and not _ends_with_last_page(path):
        raise UserError(f"{path.name}: cut short, its last page is missing. Export it again.")


def _check_length(path: Path, opened: soundfile.SoundFile, found: int, said: int) -> None:
    if said - found > MISSING_SECONDS * opened.samplerate:
        seconds, of = found / opened.samplerate, said / opened.samplerate
        raise UserError(f"{path.name}: cut short, it ends after {seconds:.2f} s of {of:.2f} s. Export it again.")


def _ends_with_last_page(path: Path) -> bool:
    """Whether an Ogg file's last page is there, whole, and flagged as the last."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2 * OGG_PAGE_BYTES, 0))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & OGG_LAST) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _checked_stream(path: Path, rate_hz: int, channels: int, blocks: Iterator[np.ndarray]) -> AudioStream:
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        allowed = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz can be read"
        raise UserError(f"{path.name}: says that its rate is {rate_hz} Hz ({allowed}). Export it again.")
    return AudioStream(rate_hz, channels, _checked(path, blocks))


def _checked(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    samples = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError(f"{path.name}: holds NaN or infinite samples. Export it again.")
        samples += block.shape[1]
        yield block
    if samples == 0:
        raise UserError(f"{path.name}: holds no audio (0 samples).")


def _soundfile_blocks(path: Path, opened: soundfile.SoundFile, block_samples: int) -> Iterator[np.ndarray]:
    done = 0
    while True:
        try:
            block = opened.read(block_samples, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path.name}: damaged ({_reason(error)}). Export it again.") from None
        if not len(block):
            break
        done += len(block)
        yield np.ascontiguousarray(block.T)
    _check_length(path, opened, done, opened.frames)


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").strip(" .")


@contextmanager
def _ffmpeg_stream(path: Path, block_samples: int, *, soundfile_says: str) -> Generator[AudioStream]:
    """Decode through a pipe, as AU: a header of six numbers, then big-endian floats, until the end or an error."""
    command = [_ffmpeg(path, soundfile_says), "-v", "error", "-xerror", "-nostdin", "-protocol_whitelist", "file"]
    command += ["-i", f"file:{path.absolute()}", "-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be", "pipe:1"]
    with TemporaryFile() as complaints, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as process:
        assert process.stdout is not None
        try:
            header = process.stdout.read(24)
            if len(header) < 24:
                process.wait()
                raise UserError(f"{path.name}: cannot be decoded as audio ({_complaint(complaints)}).")
            _, offset, _, _, rate_hz, channels = struct.unpack(">4s5I", header)
            process.stdout.read(offset - len(header))
            blocks = _ffmpeg_blocks(path, process, complaints, channels, block_samples)
            yield _checked_stream(path, rate_hz, channels, blocks)
        finally:
            process.kill()


def _ffmpeg_blocks(
    path: Path, process: subprocess.Popen[bytes], complaints: IO[bytes], channels: int, block_samples: int
) -> Iterator[np.ndarray]:
    assert process.stdout is not None
    while data := process.stdout.read(block_samples * channels * 4):
        whole = len(data) // (4 * channels) * 4 * channels
        yield np.frombuffer(data[:whole], dtype=">f4").reshape(-1, channels).T.astype(np.float32, order="C")
    if process.wait() != 0:
        raise UserError(f"{path.name}: damaged ({_complaint(complaints)}). Export it again.")


def _ffmpeg(path: Path, soundfile_says: str) -> str:
    """The ffmpeg on PATH, else the one of the imageio-ffmpeg wheel."""
    import imageio_ffmpeg

    try:
        return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        kind = path.suffix or "this file"
        says = f"soundfile says: {soundfile_says}"
        raise UserError(f"{path.name}: {kind} needs ffmpeg, which is not on PATH ({says}).") from None


def _complaint(complaints: IO[bytes]) -> str:
    """The first thing ffmpeg said, without addresses and paths that differ from run to run."""
    complaints.seek(0)
    first = complaints.read().decode("utf-8", errors="replace").strip().partition("\n")[0]
    if "matches no streams" in first:
        return "it holds no audio"
    return re.sub(r"^\[[^\]]*\] |Error opening input: |file:/\S*: ", "", first).strip(" .") or "ffmpeg gives no reason"

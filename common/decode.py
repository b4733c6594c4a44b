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
    try:
        opened = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        with _ffmpeg_stream(path, block_samples, soundfile_says=_reason(error)) as stream:
            yield stream
        return
    with opened:
        blocks = _checked(path, _soundfile_blocks(path, opened, block_samples))
        yield AudioStream(opened.samplerate, opened.channels, blocks)


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
    if opened.frames - done > MISSING_SECONDS * opened.samplerate:
        found, said = done / opened.samplerate, opened.frames / opened.samplerate
        raise UserError(f"{path.name}: cut short, it ends after {found:.2f} s of {said:.2f} s. Export it again.")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.removeprefix("Error : ").strip(" .")


@contextmanager
def _ffmpeg_stream(path: Path, block_samples: int, *, soundfile_says: str) -> Generator[AudioStream]:
    """Decode through a pipe, as AU: a header of six numbers, then big-endian floats until the end."""
    command = [_ffmpeg(path, soundfile_says), "-v", "error", "-nostdin", "-protocol_whitelist", "file"]
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
            yield AudioStream(rate_hz, channels, _checked(path, blocks))
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

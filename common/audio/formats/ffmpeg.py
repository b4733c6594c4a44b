"""What soundfile cannot read, decoded by ffmpeg: the one on PATH, else that of the imageio-ffmpeg wheel."""

import re
import shutil
import struct
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from common.audio.formats.pieces import AudioStream, FileBytes
from common.errors import UserError

CUT_SHORT = "ended prematurely"
"""What ffmpeg says of a Matroska file that was cut, before it exits as if all were well."""
FIRST_BYTES = {b"\x30\x26\xb2\x75": 16, b"TTA1": 14}
"""How WMA and TTA files begin, and how much of that comes but once in a file."""


def check_single(data: FileBytes) -> None:
    """Raises UserError for M4A, WMA and TTA files to which others were joined: ffmpeg reads the first alone."""
    first = data.at(0, FIRST_BYTES.get(data.at(0, 4), 0))
    second = data.find(first, 1) if first else _second_mp4(data)
    if second < data.size:
        raise UserError(f"{data.name}: another file begins at byte {second}, and would be left out. Split them.")


def _second_mp4(data: FileBytes) -> int:
    """Where an MP4's boxes begin anew; the file's size where they do not."""
    position = 0
    while position < data.size:
        size, name = int.from_bytes(data.at(position, 4), "big"), data.at(position + 4, 4)
        if name == b"ftyp" and position > 0:
            return position
        if size == 1:
            size = int.from_bytes(data.at(position + 8, 8), "big")
        if size < 8 or (position == 0 and name != b"ftyp"):
            break
        position += size
    return data.size


@contextmanager
def ffmpeg_stream(path: Path, block_samples: int, *, soundfile_says: str) -> Generator[AudioStream]:
    """Decode through a pipe, as AU: a header of six numbers, then big-endian floats, until the end or an error.

    Raises UserError for what it cannot decode.
    """
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
            yield AudioStream(rate_hz, channels, blocks)
        finally:
            process.kill()


def _ffmpeg_blocks(
    path: Path, process: subprocess.Popen[bytes], complaints: IO[bytes], channels: int, block_samples: int
) -> Iterator[np.ndarray]:
    assert process.stdout is not None
    while data := process.stdout.read(block_samples * channels * 4):
        whole = len(data) // (4 * channels) * 4 * channels
        yield np.frombuffer(data[:whole], dtype=">f4").reshape(-1, channels).T.astype(np.float32, order="C")
    if process.wait() != 0 or CUT_SHORT in _said(complaints):
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
    first = _said(complaints).partition("\n")[0]
    if "matches no streams" in first:
        return "it holds no audio"
    return re.sub(r"^\[[^\]]*\] |Error opening input: |file:/\S*: ", "", first).strip(" .") or "ffmpeg gives no reason"


def _said(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    return complaints.read().decode("utf-8", errors="replace").strip()

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

from common.errors import UserError
from common.pieces import AudioStream

CUT_SHORT = "ended prematurely"
"""What ffmpeg says of a Matroska file that was cut, before it exits as if all were well."""


@contextmanager
def ffmpeg_stream(path: Path, block_samples: int, *, soundfile_says: str) -> Generator[AudioStream]:
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

"""Waves as long as a song, kept on the disk: memory holds one piece of them at a time.

N samples of a stereo wave [2, N].
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

import numpy as np

from common.errors import UserError

BLOCK_SAMPLES = 1 << 18
"""Samples of a block: about six seconds, and a whole number of levels, gate steps and latent frames."""
SAMPLE_BYTES = 8
"""float32, left and right side by side."""


class Tape:
    """A wave [2, N] that grows at its end; its file has no name, so that it goes with the process."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` must have room for 20 MiB a minute; by default it is the system's temporary one."""
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed by __exit__)
        self.samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: np.ndarray) -> None:
        """Add [2, n] at the end. Raises UserError where the disk refuses it."""
        content = memoryview(block.T.astype(np.float32).tobytes())
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            where = self._folder or "the temporary folder"
            raise UserError(f"{where}: a song's waves cannot be kept there ({error.strerror}). Make room.") from None
        self.samples += block.shape[1]

    def extend(self, blocks: Iterable[np.ndarray]) -> Self:
        """Add all of them at the end."""
        for block in blocks:
            self.append(block)
        return self

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples from `start` to before `end` or the end of the wave, [2, n]."""
        end = min(end, self.samples)
        wave = np.empty((2, end - start), dtype=np.float32)
        for begin in range(start, end, BLOCK_SAMPLES):
            block = self._read(begin, min(begin + BLOCK_SAMPLES, end))
            wave[:, begin - start :][:, : block.shape[1]] = block
        return wave

    def _read(self, start: int, end: int) -> np.ndarray:
        wanted, content = (end - start) * SAMPLE_BYTES, bytearray()
        while len(content) < wanted:
            content += os.pread(self._file.fileno(), wanted - len(content), start * SAMPLE_BYTES + len(content))
        return np.frombuffer(content, dtype=np.float32).reshape(-1, 2).T

    def blocks(self) -> Iterator[np.ndarray]:
        """All of it, in order, BLOCK_SAMPLES at a time."""
        for start in range(0, self.samples, BLOCK_SAMPLES):
            yield self.read(start, start + BLOCK_SAMPLES)

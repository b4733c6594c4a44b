"""Waves as long as a song, kept on the disk: memory holds one piece of them at a time.

N samples of a stereo wave [2, N].
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Self

import numpy as np

from common.errors import UserError

BLOCK_SAMPLES = 1 << 18
"""Samples of a block: about six seconds, and a whole number of levels and gate steps."""
SAMPLE_BYTES = 4
"""float32."""


class DiskWave:
    """A wave [2, N] that grows at its end. Its files, one a channel, go when it is closed or the process ends."""

    def __init__(self, rate_hz: int, folder: Path | None = None) -> None:
        """`folder` must have room for 20 MiB a minute; by default it is the system's temporary one."""
        self.rate_hz = rate_hz
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._files = [TemporaryFile(dir=folder, buffering=0) for _ in range(2)]  # noqa: SIM115  (closed by __exit__)
        self._lock = Lock()
        self.samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def append(self, block: np.ndarray) -> None:
        """Add [2, n] at the end. Raises UserError where the disk refuses it."""
        try:
            with self._lock:
                for file, channel in zip(self._files, block, strict=True):
                    file.seek(self.samples * SAMPLE_BYTES)
                    content = np.ascontiguousarray(channel, dtype=np.float32).view(np.uint8).data
                    while content:
                        content = content[file.write(content) :]
        except OSError as error:
            where = self.folder or "the temporary folder"
            raise UserError(f"{where}: a song's waves cannot be kept there ({error.strerror}). Make room.") from None
        self.samples += block.shape[1]

    def extend(self, blocks: Iterable[np.ndarray]) -> Self:
        """Add all of them at the end. Raises UserError where the disk refuses it."""
        for block in blocks:
            self.append(block)
        return self

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples from `start` to before `end` or the end of the wave, [2, n]."""
        end = min(end, self.samples)
        wave = np.empty((2, end - start), dtype=np.float32)
        with self._lock:
            for file, channel in zip(self._files, wave, strict=True):
                file.seek(start * SAMPLE_BYTES)
                wanted = channel.view(np.uint8).data
                while wanted:
                    found = file.readinto(wanted)
                    assert found, "a wave holds what was appended"
                    wanted = wanted[found:]
        return wave

    def blocks(self, whole: int = 1) -> Iterator[np.ndarray]:
        """All of it, in order, at most BLOCK_SAMPLES at a time: multiples of `whole` samples, but for the last."""
        size = BLOCK_SAMPLES // whole * whole
        for start in range(0, self.samples, size):
            yield self.read(start, start + size)

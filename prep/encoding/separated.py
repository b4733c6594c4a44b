"""The vocal of a full song: by a separator, or as it was kept when the song was separated before.

What is kept is what the separator gave, at its own rate and before any gate, so that every base model can use it.
Waves are stereo [2, N].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from common.audio.decode import audio_stream
from common.audio.disk_wave import SAMPLE_BYTES, DiskWave
from common.audio.wave import write_audio_blocks
from common.errors import UserError
from common.progress import say

WAVE_BYTES_PER_SECOND = 2 * SAMPLE_BYTES * 44_100
"""Of a vocal that is kept, at the usual rate of separators."""
LARGEST_WAV_BYTES = 4_000_000_000
"""A WAV file counts its bytes in 32 bits; this is three hours."""
WAY_OUT = "It is a separated vocal that was kept: remove the file, and the song is separated again."


class VocalSeparator(Protocol):
    """A network or program that takes vocals out of mixes."""

    name: str
    rate_hz: int
    """The rate that it works at."""

    def vocal(self, mix: DiskWave) -> Iterator[np.ndarray]:
        """The vocal of a mix at `rate_hz`, as long as it, in blocks [2, n]. Raises SongError where there is none."""
        ...


@dataclass(frozen=True)
class VocalStore:
    """A folder of separated vocals: a WAV file of floats each, named by all that decided its samples."""

    folder: Path

    def path(self, identity: str) -> Path:
        """Where a vocal lies, or will."""
        return self.folder / f"vocal-{identity}.wav"

    def write(self, identity: str, vocal: DiskWave) -> None:
        """Keep a vocal, unless it is too long for a WAV file. Raises UserError where the disk refuses it."""
        if 2 * SAMPLE_BYTES * vocal.samples < LARGEST_WAV_BYTES:
            write_audio_blocks(self.path(identity), vocal.blocks(), vocal.rate_hz, subtype="FLOAT")

    def read(self, identity: str, seconds: float, new_wave: Callable[[int], DiskWave]) -> DiskWave | None:
        """A vocal of a song of so many seconds that is kept, as a wave that `new_wave` makes for its rate.

        Raises UserError where its file is damaged.
        """
        path = self.path(identity)
        if not path.is_file():
            return None
        kept: DiskWave | None = None
        for rate_hz, block in _blocks(path):
            kept = kept or new_wave(rate_hz)
            kept.append(block)
        assert kept is not None, "a file without samples cannot be decoded"
        if abs(kept.samples - seconds * kept.rate_hz) > 1:  # lengths are rounded up at either rate
            held = f"{kept.samples / kept.rate_hz:.2f} s of a song of {seconds:.2f} s are in it."
            raise UserError(f"{path}: {held} {WAY_OUT}")
        return kept


def _blocks(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and blocks [2, n] of a vocal that is kept."""
    try:
        with audio_stream(path) as stream:
            for block in stream.blocks:
                yield stream.rate_hz, block
    except UserError as error:
        raise UserError(f"{path.parent / str(error)} {WAY_OUT}") from None


class SongSeparator:
    """A separator that is opened for the first song whose vocal is not kept."""

    def __init__(
        self, name: str, open_separator: Callable[[], VocalSeparator], store: VocalStore | None = None
    ) -> None:
        self.name, self._open, self._store = name, open_separator, store

    @cached_property
    def _separator(self) -> VocalSeparator:
        return self._open()

    def vocal(
        self,
        identity: str | None,
        seconds: float,
        mix_at: Callable[[int], DiskWave],
        new_wave: Callable[[int], DiskWave],
    ) -> DiskWave:
        """The vocal of a song of so many seconds, at the separator's rate.

        `mix_at` gives the mix at a rate, `new_wave` an empty wave of one. A vocal without an `identity` is not kept;
        once the disk refuses one, none is, which is said.
        Raises SongError where the separator cannot give it.
        """
        if identity is None or self._store is None:
            return self._separate(mix_at, new_wave)
        kept = self._store.read(identity, seconds, new_wave)
        if kept is None:
            kept = self._separate(mix_at, new_wave)
            self._keep(identity, kept)
        return kept

    def _keep(self, identity: str, vocal: DiskWave) -> None:
        assert self._store is not None
        try:
            self._store.write(identity, vocal)
        except UserError as error:
            self._store = None
            say(f"separated vocals are not kept from here on: {error}")

    def _separate(self, mix_at: Callable[[int], DiskWave], new_wave: Callable[[int], DiskWave]) -> DiskWave:
        rate_hz = self._separator.rate_hz
        return new_wave(rate_hz).extend(self._separator.vocal(mix_at(rate_hz)))

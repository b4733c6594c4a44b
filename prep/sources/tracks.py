"""A song's three parts, given or separated, to be read piece by piece. Waves are stereo [2, N] at the codec's rate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from prep.sources.segment import PARTS, Parts, SampleSpan
from shards.schema import Part, StemNote


@dataclass(frozen=True)
class SongTracks:
    """The waves of a song that lie on the disk, and how the others are made of them."""

    waves: Mapping[Part, DiskWave]
    """Two or three parts; one that is not there is made from the two others."""
    samples: int
    """Length of the song: that of the shortest wave."""
    derived: Part | None
    residual_db: float | None = None
    separator: str | None = None
    bleed_db: float | None = None
    leak_db: float | None = None
    notes: tuple[StemNote, ...] = ()

    @property
    def rate_hz(self) -> int:
        """Rate of all waves."""
        return next(iter(self.waves.values())).rate_hz

    def part(self, name: Part, span: SampleSpan) -> np.ndarray:
        """One part of a stretch of the song, [2, n]; it is the caller's to change."""
        if name in self.waves:
            return self._read(name, span)
        if name == "mix":
            wave = self._read("vocal", span)
            return np.add(wave, self._read("inst", span), out=wave)
        wave = self._read("mix", span)
        return np.subtract(wave, self._read("inst" if name == "vocal" else "vocal", span), out=wave)

    def _read(self, name: Part, span: SampleSpan) -> np.ndarray:
        return self.waves[name].read(span.start, span.end)

    def piece(self, span: SampleSpan) -> Parts:
        """All three parts of a stretch of the song."""
        return Parts(*(self.part(name, span) for name in PARTS))

    def blocks(self) -> Iterator[SampleSpan]:
        """Stretches that make up the song, in order, BLOCK_SAMPLES long but for the last."""
        for start in range(0, self.samples, BLOCK_SAMPLES):
            yield SampleSpan(start, min(start + BLOCK_SAMPLES, self.samples))

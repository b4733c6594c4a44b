"""A song's three parts, given or separated, to be read piece by piece. Waves are stereo [2, N] at 44.1 kHz."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common.audio.tape import BLOCK_SAMPLES, Tape
from prep.sources.segment import PARTS, Parts, Span
from shards.schema import Part, StemNote


@dataclass(frozen=True)
class Tracks:
    """What is on tape of a song, and how we came by the rest."""

    tapes: Mapping[Part, Tape]
    """Two or three parts; one that is not there is made from the two others."""
    samples: int
    """Length of the song: that of the shortest tape."""
    derived: Part | None
    residual_db: float | None = None
    separator: str | None = None
    bleed_db: float | None = None
    leak_db: float | None = None
    notes: tuple[StemNote, ...] = ()

    def part(self, name: Part, span: Span) -> np.ndarray:
        """One part of a stretch of the song, [2, n]; it is the caller's to change."""
        if name in self.tapes:
            return self._on_tape(name, span)
        if name == "mix":
            wave = self._on_tape("vocal", span)
            return np.add(wave, self._on_tape("inst", span), out=wave)
        wave = self._on_tape("mix", span)
        return np.subtract(wave, self._on_tape("inst" if name == "vocal" else "vocal", span), out=wave)

    def _on_tape(self, name: Part, span: Span) -> np.ndarray:
        return self.tapes[name].read(span.start, span.end)

    def piece(self, span: Span) -> Parts:
        """All three parts of a stretch of the song."""
        return Parts(*(self.part(name, span) for name in PARTS))

    def blocks(self) -> Iterator[Span]:
        """Stretches that make up the song, in order, BLOCK_SAMPLES long but for the last."""
        for start in range(0, self.samples, BLOCK_SAMPLES):
            yield Span(start, min(start + BLOCK_SAMPLES, self.samples))

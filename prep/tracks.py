"""A song's three parts, given or separated, to be read piece by piece. Waves are stereo [2, N] at 44.1 kHz."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from common.tape import BLOCK_SAMPLES, Tape
from prep.gate import gate_gains
from prep.segment import Parts, Span
from shards.schema import Part


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
    opening: np.ndarray | None = None
    """Of the gate that the vocal still has to pass (prep/gate.py)."""
    bleed_db: float | None = None

    def piece(self, span: Span) -> Parts:
        """The three parts of a stretch of the song."""
        waves = {part: tape.read(span.start, span.end) for part, tape in self.tapes.items()}
        if self.opening is not None:
            waves["vocal"] *= gate_gains(self.opening, span.start, span.end)
        return complete(waves)

    def blocks(self) -> Iterator[Parts]:
        """All of the song, in order, BLOCK_SAMPLES at a time."""
        for start in range(0, self.samples, BLOCK_SAMPLES):
            yield self.piece(Span(start, min(start + BLOCK_SAMPLES, self.samples)))


def complete(waves: Mapping[Part, np.ndarray]) -> Parts:
    """All three parts from two or three of them."""
    vocal, inst, mix = (waves.get(part) for part in ("vocal", "inst", "mix"))
    if vocal is None:
        assert inst is not None
        assert mix is not None
        return Parts(mix - inst, inst, mix)
    if inst is None:
        assert mix is not None
        return Parts(vocal, mix - vocal, mix)
    return Parts(vocal, inst, vocal + inst if mix is None else mix)

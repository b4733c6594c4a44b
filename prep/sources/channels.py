"""A file's two channels: one that is silent while the other sounds is noticed, and filled where that is wanted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.audio.disk_wave import DiskWave
from shards.schema import Part, StemNote

Channel = Literal["left", "right"]
SILENT_SHARE = 1e-6
"""A channel with less than this share of the other's energy (-60 dB) is silent."""


@dataclass(frozen=True)
class DecodedFile:
    """A file's samples on the disk, and what is to be said of them."""

    wave: DiskWave
    notes: tuple[StemNote, ...] = ()


def decoded_file(
    part: Part, blocks: Iterable[np.ndarray], silent: Literal["keep", "fill"], new_wave: Callable[[], DiskWave]
) -> DecodedFile:
    """A file that is being decoded, in blocks [2, n], written to the disk as it is or with a silent channel filled.

    Raises UserError where the disk refuses it, and what the blocks raise.
    """
    energy = np.zeros(2)
    wave = new_wave().extend(_measured(blocks, energy))
    channel = silent_channel(energy)
    if channel is None:
        return DecodedFile(wave)
    if silent == "keep":
        return DecodedFile(wave, (StemNote(part=part, silent_channel=channel),))
    other = 1 if channel == "left" else 0
    filled = new_wave().extend(np.repeat(block[other : other + 1], 2, axis=0) for block in wave.blocks())
    return DecodedFile(filled, (StemNote(part=part, silent_channel=channel, filled=True),))


def silent_channel(energy: np.ndarray) -> Channel | None:
    """The channel that is silent while the other sounds, from the energies [2] of both."""
    left, right = energy
    if left < SILENT_SHARE * right:
        return "left"
    return "right" if right < SILENT_SHARE * left else None


def channel_energies(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Sum of the squares of each channel of blocks [2, n], [2]."""
    return sum((np.sum(np.square(block, dtype=np.float64), axis=1) for block in blocks), np.zeros(2))


def _measured(blocks: Iterable[np.ndarray], energy: np.ndarray) -> Iterator[np.ndarray]:
    for block in blocks:
        energy += channel_energies([block])
        yield block

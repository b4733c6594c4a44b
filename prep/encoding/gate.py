"""The gate of a separated vocal: where nobody sings, what its stem holds is bleed, and goes back to the instrumental.

N samples at 44.1 kHz, stereo [2, N]; G = ceil(N / GATE_SAMPLES) steps of the gate.
"""

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import maximum_filter1d

from common.audio.disk_wave import DiskWave
from common.audio.wave import frame_levels

GATE_SAMPLES = 2048
GATE_SLOPE_DB = 10.0
"""The gate goes from open to shut over this."""
LOUD_PERCENTILE = 95


def gate_levels(wave: DiskWave) -> np.ndarray:
    """RMS of each step in dBFS, [G]."""
    return np.concatenate([frame_levels(block, frame_samples=GATE_SAMPLES) for block in wave.blocks()])


def gate_opening(levels: np.ndarray, gate_db: float) -> np.ndarray:
    """How far the gate is open at each step, 0 to 1, [G]: shut `gate_db` and more below the loud parts of a vocal."""
    audible = levels[np.isfinite(levels)]
    if audible.size == 0:
        return np.ones_like(levels)
    shut_at = np.percentile(audible, LOUD_PERCENTILE) - gate_db - GATE_SLOPE_DB
    opening = np.clip((levels - shut_at) / GATE_SLOPE_DB, 0.0, 1.0)
    return maximum_filter1d(opening, 3)  # a step's room on either side, so that no onset is faded


def gate_gains(opening: np.ndarray, start: int, end: int) -> np.ndarray:
    """The gate's gain from sample `start` to before `end`, float32, linear between the middles of steps."""
    middles = (np.arange(opening.size) + 0.5) * GATE_SAMPLES
    return np.interp(np.arange(start, end), middles, opening).astype(np.float32)


def gated(wave: DiskWave, opening: np.ndarray) -> Iterator[np.ndarray]:
    """A wave behind the gate, in blocks [2, n]."""
    start = 0
    for block in wave.blocks():
        end = start + block.shape[1]
        yield np.multiply(block, gate_gains(opening, start, end), out=block)
        start = end


def bleed_db(vocal: np.ndarray, mix: np.ndarray, opening: np.ndarray) -> float | None:
    """How much of the accompaniment a vocal stem holds: its level against the mix's where nobody sings.

    `vocal` and `mix` are their levels [G]. None where somebody sings throughout, or where the pauses are silent.
    """
    shut = opening == 0
    bleed, band = (float(np.sum(10 ** (levels[shut] / 10))) for levels in (vocal, mix))
    return 10 * float(np.log10(bleed / band)) if bleed and band else None

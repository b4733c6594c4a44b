"""Integrated loudness by BS.1770-4 of a wave that comes in blocks: what pyloudnorm finds, in the memory of a block.

pyloudnorm's filters run here over one block after another, in float64, each from the state that the last one left.
c channels, N samples, J gating blocks.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import scipy.signal
from pyloudnorm import IIRfilter

LOUDNESS_BLOCK_SECONDS = 0.4
"""Length of a gating block; nothing shorter has a loudness."""
BLOCK_HOP = 0.25
"""From one gating block to the next, in blocks."""
GATE_LUFS, GATE_BELOW_LU = -70.0, 10.0
"""Gating blocks below the first, or so far below the mean of those above it, do not count."""
CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 1.41, 1.41)
"""Left, right, centre and the two behind."""


def integrated_lufs(blocks: Iterable[np.ndarray], rate_hz: int, *, samples: int) -> float:
    """Loudness of N = `samples` >= 0.4 s in blocks [c, n] of any length; -inf where all lies below the gate."""
    power = _gating_power(_k_weighted(blocks, rate_hz), rate_hz, samples)
    counted = _lufs(power) >= GATE_LUFS
    if not counted.any():
        return -math.inf
    relative = _lufs(power[:, counted].mean(axis=1)) - GATE_BELOW_LU
    counted = (_lufs(power) > relative) & (_lufs(power) > GATE_LUFS)
    return float(_lufs(power[:, counted].mean(axis=1))) if counted.any() else -math.inf


def _lufs(power: np.ndarray) -> np.ndarray:
    """Loudness of mean squares by channel, [c] or [c, J]."""
    with np.errstate(divide="ignore"):
        return -0.691 + 10.0 * np.log10(sum(weight * row for weight, row in zip(CHANNEL_WEIGHTS, power, strict=False)))


def _k_weighted(blocks: Iterable[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    """Blocks through the standard's two filters, float64."""
    filters = [
        IIRfilter(4.0, math.sqrt(0.5), 1500.0, rate_hz, "high_shelf"),
        IIRfilter(0.0, 0.5, 38.0, rate_hz, "high_pass"),
    ]
    states: list[np.ndarray | None] = [None, None]
    for block in blocks:
        wave = block.astype(np.float64)
        for number, stage in enumerate(filters):
            state = states[number]
            state = np.zeros((len(block), 2)) if state is None else state
            wave, states[number] = scipy.signal.lfilter(stage.b, stage.a, wave, axis=1, zi=state)
        yield wave


def _gating_power(filtered: Iterator[np.ndarray], rate_hz: int, samples: int) -> np.ndarray:
    """Mean square of every gating block, [c, J]; the last one counts as full where it hangs over the end."""
    count = int(np.round((samples / rate_hz - LOUDNESS_BLOCK_SECONDS) / (LOUDNESS_BLOCK_SECONDS * BLOCK_HOP)) + 1)
    squares = map(np.square, filtered)
    held, first, power = next(squares), 0, []
    for number in range(count):
        start, end = (int(LOUDNESS_BLOCK_SECONDS * (number * BLOCK_HOP + blocks) * rate_hz) for blocks in (0, 1))
        while first + held.shape[1] < min(end, samples):
            held, first = np.concatenate([held[:, start - first :], next(squares)], axis=1), start
        power.append(held[:, start - first : end - first].sum(axis=1))
    return np.ascontiguousarray(np.array(power).T) * (1.0 / (LOUDNESS_BLOCK_SECONDS * rate_hz))

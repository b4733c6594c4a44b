"""Whether given stems belong together sample by sample, and the part that is not given. Waves are stereo [2, N]."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.fft

from common.audio import decibels, frame_levels
from common.latents import SAMPLE_RATE_HZ
from prep.segment import Parts
from shards.schema import Part, SongError

MAX_LENGTH_DIFFERENCE_SECONDS = 0.5
MAX_OFFSET_SECONDS = 0.01
SEARCHED_SECONDS = 1.0
"""Offsets up to this are found."""
EXCERPT_SECONDS = 20
"""Offsets are measured where a stem is loudest, over this long."""
CLEARLY = 1.5
"""An offset counts when its correlation peak is this many times that of no offset."""


@dataclass(frozen=True)
class Aligned:
    """Three parts, and what is known of how they fit."""

    parts: Parts
    derived: Part | None
    residual_db: float | None


def align(given: Mapping[Part, np.ndarray]) -> Aligned:
    """All three parts from two or three of them, cut to the shortest.

    Raises SongError for lengths more than 0.5 s apart, and for a stem more than 10 ms off the mix.
    """
    lengths = [wave.shape[1] for wave in given.values()]
    apart = (max(lengths) - min(lengths)) / SAMPLE_RATE_HZ
    if apart > MAX_LENGTH_DIFFERENCE_SECONDS:
        limit = f"at most {MAX_LENGTH_DIFFERENCE_SECONDS:g} s is allowed"
        raise SongError("misaligned", f"its files differ in length by {apart:.2f} s ({limit}).")
    waves = {part: wave[:, : min(lengths)] for part, wave in given.items()}
    for part in sorted(set(waves) - {"mix"}):
        if "mix" in waves:
            _check_offset(part, waves[part], waves["mix"])
    return _completed(waves)


def _check_offset(part: str, stem: np.ndarray, mix: np.ndarray) -> None:
    offset = offset_seconds(stem, mix)
    if abs(offset) > MAX_OFFSET_SECONDS:
        where = "later" if offset > 0 else "earlier"
        limit = f"at most {MAX_OFFSET_SECONDS * 1000:g} ms is allowed"
        raise SongError("misaligned", f"its {part} lies {abs(offset) * 1000:.0f} ms {where} in the mix ({limit}).")


def offset_seconds(stem: np.ndarray, mix: np.ndarray) -> float:
    """How much later the mix has what the stem has; 0 unless another offset fits clearly better.

    Cross-correlation of a loud excerpt, with spectra flattened to the root of their magnitude so that a shared
    waveform makes a sharp peak and mere rhythm does not.
    """
    excerpt = _loudest_excerpt(stem)
    x, y = stem[:, excerpt].mean(axis=0), mix[:, excerpt].mean(axis=0)
    size = scipy.fft.next_fast_len(2 * x.size, real=True)
    spectrum = np.conj(scipy.fft.rfft(x, size)) * scipy.fft.rfft(y, size)
    correlation = scipy.fft.irfft(spectrum / np.sqrt(np.abs(spectrum) + 1e-12), size)
    reach, near = (min(int(seconds * SAMPLE_RATE_HZ), x.size - 1) for seconds in (SEARCHED_SECONDS, MAX_OFFSET_SECONDS))
    offsets = np.arange(-reach, reach + 1)
    around = correlation[offsets]
    best = int(offsets[np.argmax(around)])
    settled = around.max() > CLEARLY * around[np.abs(offsets) <= near].max()
    return best / SAMPLE_RATE_HZ if settled else 0.0


def _loudest_excerpt(wave: np.ndarray) -> slice:
    length = EXCERPT_SECONDS * SAMPLE_RATE_HZ
    power = 10 ** (frame_levels(wave, frame_samples=length) / 10)
    start = int(np.argmax(power)) * length
    return slice(start, start + length)


def _completed(waves: Mapping[Part, np.ndarray]) -> Aligned:
    vocal, inst, mix = (waves.get(part) for part in ("vocal", "inst", "mix"))
    if vocal is None:
        assert inst is not None
        assert mix is not None
        return Aligned(Parts(mix - inst, inst, mix), "vocal", None)
    if inst is None:
        assert mix is not None
        return Aligned(Parts(vocal, mix - vocal, mix), "inst", None)
    if mix is None:
        return Aligned(Parts(vocal, inst, vocal + inst), "mix", None)
    left_over, whole = rms(mix - vocal - inst), rms(mix)
    return Aligned(Parts(vocal, inst, mix), None, decibels(left_over / whole) if left_over and whole else None)


def rms(wave: np.ndarray) -> float:
    """Root of the mean square over channels and time."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))

"""Whether given stems belong together sample by sample. Waves are stereo [2, N]."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import scipy.fft

from common.audio import frame_levels
from common.latents import SAMPLE_RATE_HZ
from common.tape import Tape
from prep.tracks import Tracks
from shards.schema import Part, SongError

MAX_LENGTH_DIFFERENCE_SECONDS = 0.5
MAX_OFFSET_SECONDS = 0.01
SEARCHED_SECONDS = 1.0
"""Offsets up to this are found."""
EXCERPT_SAMPLES = 20 * SAMPLE_RATE_HZ
"""Offsets are measured where a stem is loudest, over this long."""
CLEARLY = 1.5
"""An offset counts when its correlation peak is this many times that of no offset."""


def align(given: Mapping[Part, Tape]) -> Tracks:
    """The song that two or three parts make, cut to the shortest.

    Raises SongError for lengths more than 0.5 s apart, and for a stem more than 10 ms off the mix.
    """
    lengths = [tape.samples for tape in given.values()]
    apart = (max(lengths) - min(lengths)) / SAMPLE_RATE_HZ
    if apart > MAX_LENGTH_DIFFERENCE_SECONDS:
        limit = f"at most {MAX_LENGTH_DIFFERENCE_SECONDS:g} s is allowed"
        raise SongError("misaligned", f"its files differ in length by {apart:.2f} s ({limit}).")
    for part in sorted(set(given) - {"mix"}):
        if "mix" in given:
            _check_offset(part, given[part], given["mix"])
    missing: set[Part] = {"vocal", "inst", "mix"} - set(given)
    if missing:
        return Tracks(given, min(lengths), derived=missing.pop())
    tracks = Tracks(given, min(lengths), derived=None)
    return replace(tracks, residual_db=residual_db(tracks))


def _check_offset(part: str, stem: Tape, mix: Tape) -> None:
    offset = offset_seconds(stem, mix)
    if abs(offset) > MAX_OFFSET_SECONDS:
        where = "later" if offset > 0 else "earlier"
        limit = f"at most {MAX_OFFSET_SECONDS * 1000:g} ms is allowed"
        raise SongError("misaligned", f"its {part} lies {abs(offset) * 1000:.0f} ms {where} in the mix ({limit}).")


def offset_seconds(stem: Tape, mix: Tape) -> float:
    """How much later the mix has what the stem has; 0 unless another offset fits clearly better.

    Cross-correlation of a loud excerpt, with spectra flattened to the root of their magnitude so that a shared
    waveform makes a sharp peak and mere rhythm does not.
    """
    start = _loudest_excerpt(stem, min(stem.samples, mix.samples))
    end = min(start + EXCERPT_SAMPLES, stem.samples, mix.samples)
    x, y = stem.read(start, end).mean(axis=0), mix.read(start, end).mean(axis=0)
    size = scipy.fft.next_fast_len(2 * x.size, real=True)
    spectrum = np.conj(scipy.fft.rfft(x, size)) * scipy.fft.rfft(y, size)
    correlation = scipy.fft.irfft(spectrum / np.sqrt(np.abs(spectrum) + 1e-12), size)
    reach, near = (min(int(seconds * SAMPLE_RATE_HZ), x.size - 1) for seconds in (SEARCHED_SECONDS, MAX_OFFSET_SECONDS))
    offsets = np.arange(-reach, reach + 1)
    around = correlation[offsets]
    best = int(offsets[np.argmax(around)])
    settled = around.max() > CLEARLY * around[np.abs(offsets) <= near].max()
    return best / SAMPLE_RATE_HZ if settled else 0.0


def _loudest_excerpt(wave: Tape, samples: int) -> int:
    """Where the loudest of a song's consecutive excerpts begins."""
    starts = range(0, samples, EXCERPT_SAMPLES)
    excerpts = (wave.read(start, start + EXCERPT_SAMPLES) for start in starts)
    levels = [frame_levels(excerpt, frame_samples=EXCERPT_SAMPLES).item() for excerpt in excerpts]
    return starts[int(np.argmax(levels))]


def residual_db(tracks: Tracks) -> float | None:
    """Level of mix - vocal - inst against the mix; None where they sum to it exactly."""
    left_over, whole = 0.0, 0.0
    for parts in map(tracks.piece, tracks.blocks()):
        left_over += energy(parts.mix - parts.vocal - parts.inst)
        whole += energy(parts.mix)
    return 10 * math.log10(left_over / whole) if left_over and whole else None


def energy(wave: np.ndarray) -> float:
    """Sum of the squares over channels and time."""
    return float(np.sum(np.square(wave, dtype=np.float64)))

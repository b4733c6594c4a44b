"""Where a song begins, ends and is cut, and the gain of each piece.

N samples at the codec's rate, stereo [2, N]. A level is the RMS in dBFS of LEVEL_SAMPLES of the mix; positions are
decided on levels alone, so that they can be gathered while a song streams by.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.audio.wave import LevelGain, frame_levels, gain_to, loudness_lufs, peak_dbfs
from common.latents import LatentLayout
from prep.config import LoudnessConfig, SegmentConfig, TrimConfig
from shards.rejection import SongError
from shards.schema import Part, PartLevels

PARTS: tuple[Part, ...] = ("vocal", "inst", "mix")
LEVEL_SAMPLES = 512
QUIET_LEVELS = 8
"""A cut's level is taken over this many levels on either side of it (0.09 s)."""


@dataclass(frozen=True)
class Parts:
    """Three sample-aligned waves [2, N]; inst + vocal is the mix, but for what given stems leave over."""

    vocal: np.ndarray
    inst: np.ndarray
    mix: np.ndarray


@dataclass(frozen=True)
class SampleSpan:
    """Samples from start to before end."""

    start: int
    end: int


@dataclass(frozen=True)
class PartLoudness:
    """How loud one part of a piece is."""

    lufs: float | None
    """None where it is silent."""
    peak_dbfs: float


@dataclass(frozen=True)
class Level:
    """How loud a piece was, and what it is multiplied by."""

    lufs: PartLevels
    gain: LevelGain


def mix_levels(mix: np.ndarray) -> np.ndarray:
    """Levels of a mix [2, N], [ceil(N / LEVEL_SAMPLES)]."""
    return frame_levels(mix, frame_samples=LEVEL_SAMPLES)


def spans(
    levels: np.ndarray, samples: int, latents: LatentLayout, trim: TrimConfig, segment: SegmentConfig
) -> list[SampleSpan]:
    """The segments of a song: its outer silence left out, cut where it is quiet.

    Raises SongError for a song that is silent, or shorter than segment.min_seconds.
    """
    window = sounding(levels, samples, latents.sample_rate_hz, trim)
    found = (window.end - window.start) / latents.sample_rate_hz
    if found < segment.min_seconds:
        raise SongError(
            "too_short",
            f"{found:.2f} s without its outer silence is shorter than segment.min_seconds ({segment.min_seconds:g} s).",
        )
    return cut(levels, window, latents, segment)


def sounding(levels: np.ndarray, samples: int, rate_hz: int, trim: TrimConfig) -> SampleSpan:
    """The song without its outer silence. Raises SongError where nothing is louder than trim.silence_dbfs."""
    loud = np.flatnonzero(levels > trim.silence_dbfs)
    if loud.size == 0:
        peak = f"its loudest moment is at {levels.max():.1f} dBFS"
        raise SongError("silent", f"{peak}, no louder than trim.silence_dbfs ({trim.silence_dbfs:g} dBFS).")
    keep = math.ceil(trim.keep_seconds * rate_hz / LEVEL_SAMPLES)
    start, end = max(int(loud[0]) - keep, 0), int(loud[-1]) + 1 + keep
    return SampleSpan(start * LEVEL_SAMPLES, min(end * LEVEL_SAMPLES, samples))


def cut(levels: np.ndarray, window: SampleSpan, latents: LatentLayout, segment: SegmentConfig) -> list[SampleSpan]:
    """Pieces of at most max_seconds, each but the last a whole number of latent frames, and none under min_seconds."""
    rate_hz, frame = latents.sample_rate_hz, latents.frame_samples
    limit, search, least = (
        int(seconds * rate_hz) for seconds in (segment.max_seconds, segment.search_seconds, segment.min_seconds)
    )
    pieces, start = [], window.start
    while window.end - start > limit:
        latest = min(limit, window.end - start - least) // frame
        earliest = max(latest - search // frame, 1)
        candidates = start + frame * np.arange(earliest, latest + 1)
        end = int(candidates[np.argmin(_levels_around(levels, candidates))])
        pieces.append(SampleSpan(start, end))
        start = end
    return [*pieces, SampleSpan(start, window.end)]


def _levels_around(levels: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Mean power around each position."""
    power = np.concatenate([[0.0], np.cumsum(10 ** (levels / 10))])
    centre = positions // LEVEL_SAMPLES
    low, high = np.maximum(centre - QUIET_LEVELS, 0), np.minimum(centre + QUIET_LEVELS, levels.size)
    return (power[high] - power[low]) / (high - low)


def measure(wave: np.ndarray, rate_hz: int) -> PartLoudness:
    """Loudness and peak of [2, N]."""
    return PartLoudness(audible_lufs(wave, rate_hz), peak_dbfs(wave))


def level(parts: Mapping[Part, PartLoudness], config: LoudnessConfig) -> Level | None:
    """The gain of a piece, from loudness and peaks of its parts; None where it is silent."""
    lufs = PartLevels(**{part: found.lufs for part, found in parts.items()})
    measured = parts[config.measure].lufs
    measured = lufs.mix if measured is None else measured
    if measured is None:
        return None
    peak = max(found.peak_dbfs for found in parts.values())
    return Level(lufs, gain_to(config.target_lufs, lufs=measured, peak=peak, ceiling_dbfs=config.peak_dbfs))


def audible_lufs(wave: np.ndarray, rate_hz: int) -> float | None:
    """Loudness of [2, N] without a constant offset, of which only the onset could be heard; None where it is silent."""
    return finite(loudness_lufs(wave, rate_hz, offset=wave.mean(axis=1, keepdims=True)))


def finite(lufs: float) -> float | None:
    return lufs if math.isfinite(lufs) else None

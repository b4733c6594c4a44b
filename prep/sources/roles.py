"""Whether a vocal looks like a band and its inst like a voice: then their names were exchanged.

Two things tell them apart without any network: a band has bass, a voice next to none; and a voice pauses, a band less.
Both must say so, clearly.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from common.audio.wave import frame_levels
from prep.sources.tracks import SongTracks
from shards.schema import Part

BLOCKS = 12
"""Stretches of six seconds that are listened to, over the whole of a song."""
FRAME_SAMPLES = 8192
BASS_HZ = 120
BASS_DB, BASS_OVER_DB = -15.0, 6.0
"""Least bass of what looks like a band, and how much more that is than the other has."""
PAUSE_SAMPLES, PAUSE_DB = 2048, 30.0
"""A pause is this far below the loud parts (their 95th percentile)."""


@dataclass(frozen=True)
class _Look:
    bass_db: float
    """Share of its energy below BASS_HZ."""
    pauses: float
    """Share of its time."""


def look_swapped(tracks: SongTracks) -> str | None:
    """Why vocal and inst look exchanged, as a sentence; None where they do not."""
    vocal, inst = (_look(tracks, part) for part in ("vocal", "inst"))
    if vocal is None or inst is None:
        return None
    bass = vocal.bass_db > BASS_DB and vocal.bass_db > inst.bass_db + BASS_OVER_DB
    if not (bass and vocal.pauses <= inst.pauses):
        return None
    figures = ", ".join(
        f"{part} with {look.bass_db:.0f} dB of bass and {look.pauses:.0%} of pauses"
        for part, look in (("vocal", vocal), ("inst", inst))
    )
    return f"its vocal looks like a band and its inst like a voice ({figures})."


def _look(tracks: SongTracks, part: Part) -> _Look | None:
    """None for a silent part."""
    blocks = list(tracks.blocks())
    power, levels = np.zeros(FRAME_SAMPLES // 2 + 1), list[np.ndarray]()
    for block in blocks[:: -(-len(blocks) // BLOCKS)]:
        wave = tracks.part(part, block)
        levels.append(frame_levels(wave, frame_samples=PAUSE_SAMPLES))
        power += _power(wave)
    level = np.concatenate(levels)
    if not np.isfinite(level).any() or not power.any():
        return None
    loud = np.percentile(level[np.isfinite(level)], 95)
    bass = power[: round(BASS_HZ * FRAME_SAMPLES / tracks.rate_hz)].sum() / power.sum()
    return _Look(float(10 * np.log10(max(bass, 1e-9))), float(np.mean(level < loud - PAUSE_DB)))


def _power(wave: np.ndarray) -> np.ndarray:
    """Power spectrum of both channels, summed over frames; without the constant offset."""
    frames = np.pad(wave, ((0, 0), (0, -wave.shape[1] % FRAME_SAMPLES))).reshape(-1, FRAME_SAMPLES)
    spectra = scipy.fft.rfft(frames * np.hanning(FRAME_SAMPLES).astype(np.float32))
    power = np.sum(np.square(np.abs(spectra), dtype=np.float64), axis=0)
    power[:2] = 0.0
    return power

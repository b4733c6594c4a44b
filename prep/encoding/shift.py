"""A song's vocal and band at another pitch and loudness and the same length, by Signalsmith Stretch. Waves [2, N]."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from python_stretch import Signalsmith

from common.audio.disk_wave import DiskWave
from prep.config import PrepConfig
from prep.sources.scan import SongFiles
from prep.sources.segment import SampleSpan
from prep.sources.tracks import SongTracks
from shards.schema import Part

SHIFTED: tuple[Part, Part] = ("vocal", "inst")


def shifted_tracks(tracks: SongTracks, semitones: int, new_wave: Callable[[], DiskWave]) -> SongTracks:
    """Vocal and band, each shifted as a whole, which takes memory for one of them twice; the mix is their sum.

    A shifted mix less a shifted vocal would be no band: the shift is not linear.
    """
    whole = SampleSpan(0, tracks.samples)
    waves = {
        part: new_wave().extend([shifted_wave(tracks.part(part, whole), tracks.rate_hz, semitones)]) for part in SHIFTED
    }
    return replace(tracks, waves=waves)


def levelled_config(config: PrepConfig, song: SongFiles) -> PrepConfig:
    """The settings of a song at another pitch: its own loudness, which its key draws from `augment.gain_db`."""
    if not (song.semitones and config.augment.gain_db):
        return config
    draw = int.from_bytes(hashlib.sha256(song.key.encode()).digest()[:8]) / 2**63 - 1  # in [-1, 1)
    target_lufs = config.loudness.target_lufs + draw * config.augment.gain_db
    return config.model_copy(update={"loudness": config.loudness.model_copy(update={"target_lufs": target_lufs})})


def shifted_wave(wave: np.ndarray, rate_hz: int, semitones: int) -> np.ndarray:
    """A wave [2, N] so many semitones higher, in time with itself."""
    stretch = Signalsmith.Stretch()
    stretch.preset(len(wave), rate_hz)
    stretch.setTransposeSemitones(semitones)
    return np.asarray(stretch.process(np.ascontiguousarray(wave, dtype=np.float32)))

"""How a band fits a song whose truth is known: key, tempo, beats, chords, and what of the vocal is in it.

M samples at 22.05 kHz, W windows of half a second.
"""

import numpy as np

from common.config import Config
from common.music.chord import TONICS
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip
from infer.evaluate.measures.harmony import CHORD_FRAMES, estimate_key, find_chords
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.rhythm import OCTAVES, beat_f, tempo_is_right
from prep.made_up.truth import SongTruth
from recipe.music_measures import signature


class BandMeasures(Config):
    """All but leak_fine are shares in [0, 1]."""

    key: float
    """1 where the band has the song's key signature: relative keys count as one."""
    tempo: float
    """1 where the tempo is right within 4 %, or its double, triple, half or third is."""
    beats: float
    """F-measure within 70 ms."""
    chords: float
    """Share of half seconds whose triad is the song's."""
    leak_fine: float
    """How much of the song's vocal stands in the band, above chance."""


def measure_band(truth: SongTruth, vocal: np.ndarray, band: Clip) -> BandMeasures:
    """A band [2, N] against what is true of its song and its vocal [M]."""
    found = find_chords(band.chroma)
    return BandMeasures(
        key=float(signature(estimate_key(band)) == signature(truth.full_key)),
        tempo=float(tempo_is_right(truth.tempo_bpm, band.pulse.tempo_bpm, OCTAVES)),
        beats=beat_f(np.array(truth.beats), band.pulse.beats),
        chords=float(np.mean(found == true_chords(truth, len(found)))),
        leak_fine=fine_structure_excess(vocal, band.mono),
    )


def true_chords(truth: SongTruth, windows: int) -> np.ndarray:
    """The chord in the middle of each window, numbered as find_chords numbers them; -1 where there is none: [W]"""
    middles = (np.arange(windows) + 0.5) * CHORD_FRAMES * HOP_SAMPLES / ANALYSIS_RATE_HZ
    chords = np.full(windows, -1)
    for span in truth.chords:
        root, _, quality = span.label.partition(":")
        number = TONICS.index(root) + len(TONICS) * (quality == "min")
        chords[(span.start <= middles) & (middles < span.end)] = number
    return chords

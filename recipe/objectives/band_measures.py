"""How a band fits a song whose truth is known: key, tempo, beats, chords, and what of the vocal is in it.

M samples at 22.05 kHz.
"""

import numpy as np

from common.config import Config
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.sheet import measure_sheet
from prep.made_up.truth import SongTruth, lead_sheet_of_truth


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
    fit = measure_sheet(lead_sheet_of_truth(truth), band)
    return BandMeasures(**vars(fit), leak_fine=fine_structure_excess(vocal, band.mono))

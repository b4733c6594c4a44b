"""A vocal half beat by half beat, transposed to one key: what the harmony network reads. No torch.

n beats, L = PARTS n half beats, D = WIDTH numbers each, F frames.
"""

from dataclasses import dataclass

import numpy as np

from common.music.vocal_features import VocalFeatures, means_between
from models.harmony.beats import BEATS_PER_BAR, BeatTrack
from models.harmony.rules import SCALES

PARTS = 2
"""Of a beat."""
WIDTH = 12 + 2 + PARTS * BEATS_PER_BAR
DEGREE_SALIENCE = (1.2, 1.0, 1.1, 0.9, 1.2, 1.0, 0.8)
"""How much a note on each degree of a major scale speaks for it."""


@dataclass(frozen=True)
class HalfBeats:
    """What is sung in each half beat."""

    values: np.ndarray
    """Pitch classes from `signature` up, share that is sung, height, place in the bar: float32 [L, D]."""
    signature: int
    """Pitch class that stands first: tonic of the major scale that holds most of what is sung."""


def half_beats(features: VocalFeatures, beats: BeatTrack) -> HalfBeats:
    """The half beats of a vocal; of a transposed one the same values with another signature."""
    edges = beats.edges(PARTS)
    chroma = means_between(features.chroma, edges)
    signature = best_signature(chroma)
    sung = means_between(features.confidence[None], edges)
    sure = features.confidence > 0.5
    middle = float(np.median(features.midi[sure])) if sure.any() else 0.0
    semitones = means_between(((features.midi - middle) * features.confidence)[None], edges) / np.maximum(sung, 1e-3)
    places = (PARTS * beats.places[:, None] + np.arange(PARTS)).ravel()
    values = [
        np.roll(chroma, -signature, axis=0),
        sung,
        np.clip(semitones / 12, -2, 2),
        np.eye(PARTS * BEATS_PER_BAR)[places].T,
    ]
    return HalfBeats(np.concatenate(values).T.astype(np.float32), signature)


def best_signature(chroma: np.ndarray) -> int:
    """Tonic of the major scale that holds most of chroma [12, any]."""
    total = chroma.sum(axis=1)
    scales = (np.arange(12)[:, None] + np.array(SCALES["major"])) % 12
    return int(np.argmax(total[scales] @ np.array(DEGREE_SALIENCE)))

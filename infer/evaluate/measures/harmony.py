"""Does the band play in the singer's key, and chords that her notes belong to? (docs/evaluation.md#harmony)

F frames of a chroma [12, F], pitch class C first; W windows of half a second.
"""

from dataclasses import dataclass

import librosa
import mir_eval
import numpy as np
import scipy.ndimage

from common.music.chord import Mode
from common.music.key import key_correlations
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip

SMOOTHED_FRAMES = 21
"""The band's chroma is averaged over half a second, so that a note need not meet its chord on the frame."""

CHORD_FRAMES = round(0.5 * ANALYSIS_RATE_HZ / HOP_SAMPLES)
"""A chord is found from half a second."""
TRIADS: dict[Mode, tuple[int, int, int]] = {"major": (0, 4, 7), "minor": (0, 3, 7)}


@dataclass(frozen=True)
class Harmony:
    """How a band fits a vocal."""

    rank: float
    """Place of the band as it is among its 12 transpositions, by fit to the vocal: 1 is best, 6.5 is chance."""
    z: float
    """Standard deviations of its fit above the mean of the 12; 0 is chance, sqrt(11) the most there can be."""
    key_score: float
    """MIREX score of the band's key against the vocal's: 1 same, 0.5 a fifth, 0.3 relative, 0.2 parallel, else 0."""


def measure_harmony(vocal: Clip, band: Clip) -> Harmony:
    """Where nothing sounds in either, rank and z are those of chance."""
    fits = transposition_fits(vocal.chroma, band.chroma, vocal.active)
    return Harmony(
        rank=rank_of_first(fits),
        z=z_of_first(fits),
        key_score=key_score(estimate_key(vocal), estimate_key(band)),
    )


def transposition_fits(vocal: np.ndarray, band: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Mean cosine over active frames of the vocal's chroma and the band's, k semitones higher: [12], k = 0 first.

    One number of them says nothing (noise fits any voice): only how it stands among the twelve does.
    """
    frames = min(vocal.shape[1], band.shape[1])
    smooth = scipy.ndimage.uniform_filter1d(librosa.util.normalize(band[:, :frames], norm=2), SMOOTHED_FRAMES, axis=1)
    sung = librosa.util.normalize(vocal[:, :frames], norm=2)[:, active[:frames]]
    played = librosa.util.normalize(smooth, norm=2)[:, active[:frames]]
    if sung.shape[1] == 0:
        return np.zeros(12)
    return np.array([np.mean(np.sum(sung * np.roll(played, k, axis=0), axis=0)) for k in range(12)])


def rank_of_first(fits: np.ndarray) -> float:
    """1 + how many are better than the first; equal ones count half."""
    return 1.0 + float(np.sum(fits[1:] > fits[0])) + 0.5 * float(np.sum(fits[1:] == fits[0]))


def z_of_first(fits: np.ndarray) -> float:
    """(first - mean) / standard deviation, over all of them; 0 where all are equal."""
    spread = float(fits.std())
    return float((fits[0] - fits.mean()) / spread) if spread > 1e-9 else 0.0


def estimate_key(clip: Clip) -> str | None:
    """The key, such as "F# minor", whose profile correlates best with the mean chroma; None in silence."""
    return key_of(clip.upper_chroma)


def key_of(chroma: np.ndarray) -> str | None:
    """The same, of a chroma [12, F]."""
    scores = key_correlations(chroma)
    return max(scores, key=lambda key: scores[key]) if scores else None


def key_score(reference: str | None, estimate: str | None) -> float:
    """MIREX's weighted score of two keys; 0 where one has none."""
    if reference is None or estimate is None:
        return 0.0
    return float(mir_eval.key.weighted_score(reference, estimate))


def find_chords(chroma: np.ndarray) -> np.ndarray:
    """The loudest triad of each half second of a chroma [12, F], its root and 12 more where it is minor: [W]"""
    whole = chroma[:, : chroma.shape[1] // CHORD_FRAMES * CHORD_FRAMES]
    windows = whole.reshape(12, -1, CHORD_FRAMES).mean(axis=2)
    templates = np.stack([np.roll(np.isin(range(12), TRIADS[mode]), root) for mode in TRIADS for root in range(12)])
    return (templates @ windows).argmax(axis=0)

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
from common.music.vocal_features import FEATURE_RATE_HZ
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
    melody_rank: float
    """The same place by fit to the pitches that are sung, without their overtones, of what is played above the bass."""
    melody_z: float
    """The same by these: it tells the right key from wrong ones more surely (docs/evaluation.md#harmony)."""
    tuning_cents: float | None
    """How far the band's tuning is from the singer's, 0 to 50: 25 is chance. None where one has no pitch."""
    key_score: float
    """MIREX score of the band's key against the vocal's: 1 same, 0.5 a fifth, 0.3 relative, 0.2 parallel, else 0."""


def measure_harmony(vocal: Clip, band: Clip) -> Harmony:
    """Where nothing sounds in either, rank and z are those of chance."""
    fits = transposition_fits(vocal.chroma, band.chroma, vocal.active)
    melody_fits = transposition_fits(sung_chroma(vocal), band.upper_chroma, vocal.active)
    return Harmony(
        rank=rank_of_first(fits),
        z=z_of_first(fits),
        melody_rank=rank_of_first(melody_fits),
        melody_z=z_of_first(melody_fits),
        tuning_cents=tuning_apart(vocal, band),
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


def sung_chroma(vocal: Clip) -> np.ndarray:
    """Pitch classes that are sung, by their confidence, on the frames of a clip's chroma: [12, F]."""
    frames = np.arange(vocal.active.size) * HOP_SAMPLES / ANALYSIS_RATE_HZ * FEATURE_RATE_HZ
    return vocal.sung.chroma[:, np.minimum(np.rint(frames).astype(int), vocal.sung.frames - 1)]


def tuning_apart(vocal: Clip, band: Clip) -> float | None:
    """Cents between two tunings, the nearest way around the semitone."""
    if band.tuning_cents is None or not vocal.sung.sung:
        return None
    return abs((band.tuning_cents - 100 * vocal.sung.tuning + 50) % 100 - 50)


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


def key_lead(chroma: np.ndarray) -> float | None:
    """How much better the best key correlates with a chroma [12, F] than the second best; None in silence."""
    first, second, *_ = sorted(key_correlations(chroma).values(), reverse=True) or (None, None)
    return None if first is None or second is None else first - second


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

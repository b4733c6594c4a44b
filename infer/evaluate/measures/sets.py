"""Sets of clips against the set of true bands, on features that need no weights (docs/evaluation.md#sets-of-bands).

They carry the names mel-FD, mel-KAD and mel-APA: guards against regressions, not to be compared with anyone's papers.
N windows of D features [N, D]; a window lasts a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import librosa
import numpy as np
import scipy.spatial.distance

from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip

WINDOW_FRAMES = ANALYSIS_RATE_HZ // HOP_SAMPLES
CEPSTRA = 13
MOST_WINDOWS = 2000
"""The kernel distance takes that many, spread evenly: its cost grows with their square."""
EXTRAPOLATED, SUBSET_SEED = 25, 0
"""Subsets through which the distance of an endless set is extrapolated."""


@dataclass(frozen=True)
class FeatureScaler:
    """Mean and spread [D] of the reference's features, by which every set is brought to the same units."""

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureScaler":
        return cls(features.mean(axis=0), np.maximum(features.std(axis=0), 1e-3))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.spread


def set_features(clips: Sequence[Clip]) -> np.ndarray:
    """Features of every whole second of every clip, [N, D]."""
    return np.concatenate([window_features(clip) for clip in clips])


def window_features(clip: Clip) -> np.ndarray:
    """Mean and spread of log-mel (dB), mean MFCC, chroma and onset strength of each second: [n, D]."""
    cepstra = librosa.feature.mfcc(S=clip.log_mel, n_mfcc=CEPSTRA)
    chroma = librosa.util.normalize(clip.chroma, norm=2)
    windows = range(max(1, clip.log_mel.shape[1] // WINDOW_FRAMES))
    spans = (slice(number * WINDOW_FRAMES, (number + 1) * WINDOW_FRAMES) for number in windows)
    return np.stack([_window(clip.log_mel, cepstra, chroma, clip.onset_strength, span) for span in spans])


def _window(mel: np.ndarray, cepstra: np.ndarray, chroma: np.ndarray, onsets: np.ndarray, span: slice) -> np.ndarray:
    mel, onsets = mel[:, span], onsets[span]
    return np.concatenate(
        [
            mel.mean(axis=1),
            mel.std(axis=1),
            cepstra[:, span].mean(axis=1),
            chroma[:, span].mean(axis=1),
            [onsets.mean(), onsets.std(), onsets.max()],
        ]
    ).astype(np.float64)


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets [N, D], [M, D]; each needs two windows.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^1/2 C2 C1^1/2)^1/2. With C = R'R, R from the QR decomposition of the
    centred set, the last trace is the sum of the singular values of R1 R2'.
    """
    return _Gaussian.of(one).distance(_Gaussian.of(other))


def frechet_distance_inf(reference: np.ndarray, other: np.ndarray, *, fewest: int) -> float | None:
    """`frechet_distance` to a set [N, D] as it would be without end: FAD-inf of Gui et al. (2023, arXiv 2311.01616).

    The distance of n windows is too large by about c/n. It is taken of EXTRAPOLATED subsets, of `fewest` windows up to
    all, and the line through them over 1/n is read off at 0. Subsets are drawn without putting back: with putting
    back, the line ends at the distance of the N windows themselves. What the reference's own size adds stays.
    None for fewer than twice `fewest` windows.
    """
    if len(other) < 2 * fewest:
        return None
    generator, fixed = np.random.default_rng(SUBSET_SEED), _Gaussian.of(reference)
    sizes = np.linspace(fewest, len(other), EXTRAPOLATED).astype(int)
    subsets = (other[generator.permutation(len(other))[:size]] for size in sizes)
    return float(np.polyfit(1 / sizes, [fixed.distance(_Gaussian.of(subset)) for subset in subsets], 1)[1])


@dataclass(frozen=True)
class _Gaussian:
    """Fitted to a set: its mean [D], and R [min(N, D), D], of which R'R is the covariance."""

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "_Gaussian":
        return cls(features.mean(axis=0), np.linalg.qr(_centred(features), mode="r") / np.sqrt(len(features) - 1))

    def distance(self, other: "_Gaussian") -> float:
        shared = np.linalg.svd(self.factor @ other.factor.T, compute_uv=False).sum()
        means = np.sum((self.mean - other.mean) ** 2)
        return float(max(means + np.sum(self.factor**2) + np.sum(other.factor**2) - 2 * shared, 0.0))


def kernel_distance(reference: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared MMD of two sets [N, D], [M, D]; the kernel is as wide as the reference's median distance.

    Near zero, and as often below it as above, for two sets of one kind.
    """
    reference, other = _spread(reference), _spread(other)
    within = scipy.spatial.distance.pdist(reference, "sqeuclidean")
    width = max(float(np.median(within)), 1e-9)
    across = scipy.spatial.distance.cdist(reference, other, "sqeuclidean")
    inside = scipy.spatial.distance.pdist(other, "sqeuclidean")
    likeness = [np.exp(-squares / (2 * width)).mean() for squares in (within, inside, across)]
    return float(likeness[0] + likeness[1] - 2 * likeness[2])


def adherence(true: np.ndarray, shuffled: np.ndarray, candidate: np.ndarray) -> float:
    """APA's formula on features of mixes of vocal and band: 1 as close as true pairs, 0 as close as shuffled ones.

    n = FD(candidate, shuffled) - FD(candidate, true); 1/2 + n / (2 max(FD(true, shuffled), |n|)).
    """
    gain = frechet_distance(candidate, shuffled) - frechet_distance(candidate, true)
    widest = max(frechet_distance(true, shuffled), abs(gain))
    return 0.5 + gain / (2 * widest) if widest > 0 else 0.5


def _centred(features: np.ndarray) -> np.ndarray:
    return features - features.mean(axis=0)


def _spread(features: np.ndarray) -> np.ndarray:
    """At most MOST_WINDOWS rows, evenly chosen."""
    count = min(len(features), MOST_WINDOWS)
    return features[np.arange(count) * len(features) // count]

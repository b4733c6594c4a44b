"""The key that a chroma is in. A chroma is energy by pitch class, C first: [12, F] over F frames."""

from collections.abc import Mapping

import librosa
import numpy as np

from common.music.chord import TONICS

MAJOR_PROFILE = (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081)
MINOR_PROFILE = (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)
"""Share of each pitch class in pieces of a key, tonic first (Albrecht and Shanahan 2013)."""


def key_correlations(chroma: np.ndarray) -> Mapping[str, float]:
    """Correlation of the mean chroma with the profile of each key, such as "F# minor"; nothing in silence."""
    mean_chroma = librosa.util.normalize(chroma, norm=2).mean(axis=1)
    if mean_chroma.std() < 1e-9:
        return {}
    return {
        f"{TONICS[tonic]} {mode}": float(np.corrcoef(np.roll(profile, tonic), mean_chroma)[0, 1])
        for mode, profile in (("major", MAJOR_PROFILE), ("minor", MINOR_PROFILE))
        for tonic in range(12)
    }

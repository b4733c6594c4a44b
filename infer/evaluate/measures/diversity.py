"""How different are the bands that different seeds make for one vocal? (docs/evaluation.md#what-is-measured)"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from infer.evaluate.measures.clip import Clip


def mean_distance_db(clips: Sequence[Clip]) -> float:
    """Mean over pairs of their log-mel distance; a model that always makes the same has 0. Needs two clips."""
    assert len(clips) > 1
    return float(np.mean([distance_db(one, other) for one, other in combinations(clips, 2)]))


def distance_db(one: Clip, other: Clip) -> float:
    """Root of the mean squared difference of two log-mel spectrograms, each at its own mean level, in dB."""
    frames = min(one.log_mel.shape[1], other.log_mel.shape[1])
    levelled = [mel[:, :frames] - mel[:, :frames].mean() for mel in (one.log_mel, other.log_mel)]
    return float(np.sqrt(np.mean((levelled[0] - levelled[1]) ** 2)))

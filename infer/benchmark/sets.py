"""The bands of a system as a set against the true ones: each seed's set by itself, so that all are of one size.

N windows of D features [N, D].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infer.benchmark.measured import Measured
from infer.evaluate.measures.sets import FeatureScaler, adherence, frechet_distance, kernel_distance

FEWEST_SONGS = 2


@dataclass(frozen=True)
class SetFigure:
    """A measure of a set: its mean over seeds, the lowest and the highest of them."""

    measure: str
    system: str
    value: float
    low: float
    high: float
    seeds: int


def compare_sets(name: str, systems: Mapping[str, Sequence[Measured]], *, scaled: bool) -> list[SetFigure]:
    """NAME_fd, NAME_kad and NAME_apa of each system; each holds one Measured for each excerpt, in one order.

    Where they are `scaled`, features are brought to the spread that they have over the true bands.
    """
    alone = {system: _by_seed([measured.alone for measured in found]) for system, found in systems.items()}
    mixed = {system: _by_seed([measured.mixed for measured in found]) for system, found in systems.items()}
    true, true_mix, shuffled_mix = alone["true"][0], mixed["true"][0], mixed["shuffled"][0]
    scale, scale_mix = (_scaler(features, scaled=scaled) for features in (true, true_mix))
    figures = []
    for system in systems:
        sets, mixes = map(scale, alone[system]), list(map(scale_mix, mixed[system]))
        distances = [(frechet_distance(scale(true), one), kernel_distance(scale(true), one)) for one in sets]
        fits = [adherence(scale_mix(true_mix), scale_mix(shuffled_mix), mix) for mix in mixes]
        figures += [
            _figure(f"{name}_fd", system, [fd for fd, _ in distances]),
            _figure(f"{name}_kad", system, [kad for _, kad in distances]),
            _figure(f"{name}_apa", system, fits),
        ]
    return figures


def _by_seed(excerpts: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The windows of all excerpts for each seed."""
    return [np.concatenate(takes) for takes in zip(*excerpts, strict=True)]


def _scaler(features: np.ndarray, *, scaled: bool) -> Callable[[np.ndarray], np.ndarray]:
    return FeatureScaler.of(features) if scaled else lambda values: values


def _figure(measure: str, system: str, values: Sequence[float]) -> SetFigure:
    return SetFigure(measure, system, float(np.mean(values)), min(values), max(values), len(values))

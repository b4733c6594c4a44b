"""The bands of a system as a set against the true ones: each seed's set by itself, so that all are of one size.

N windows of D features [N, D].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infer.benchmark.measured import Measured
from infer.evaluate.measures.sets import (
    FeatureScaler,
    adherence,
    frechet_distance,
    frechet_distance_inf,
    kernel_distance,
)

FEWEST_SONGS = 2

FEWEST_WINDOWS = 500
"""From so many windows up FAD-inf is extrapolated, as fadtk does."""


@dataclass(frozen=True)
class SetFigure:
    """A measure of a set: its mean over seeds, the lowest and the highest of them."""

    measure: str
    system: str
    value: float
    low: float
    high: float
    seeds: int


def compare_sets(
    name: str, systems: Mapping[str, Sequence[Measured]], *, scaled: bool, fewest: int | None = None
) -> list[SetFigure]:
    """NAME_fd, NAME_kad and NAME_apa of each system; each holds one Measured for each excerpt, in one order.

    Where they are `scaled`, features are brought to the spread that they have over the true bands. NAME_fd_inf is
    extrapolated from `fewest` windows up, where there are twice as many.
    """
    alone, mixed = (
        {system: _by_seed([getattr(measured, kind) for measured in found]) for system, found in systems.items()}
        for kind in ("alone", "mixed")
    )
    scale, scale_mix = (_scaler(kind["true"][0], scaled=scaled) for kind in (alone, mixed))
    true, true_mix, shuffled_mix = scale(alone["true"][0]), scale_mix(mixed["true"][0]), scale_mix(mixed["shuffled"][0])
    figures = []
    for system in systems:
        sets, mixes = map(scale, alone[system]), map(scale_mix, mixed[system])
        found: dict[str, list[float | None]] = {"fd": [], "fd_inf": [], "kad": [], "apa": []}
        for one, mix in zip(sets, mixes, strict=True):
            found["fd"].append(frechet_distance(true, one))
            found["fd_inf"].append(None if fewest is None else frechet_distance_inf(true, one, fewest=fewest))
            found["kad"].append(kernel_distance(true, one))
            found["apa"].append(adherence(true_mix, shuffled_mix, mix))
        figures += [_figure(f"{name}_{measure}", system, values) for measure, values in found.items()]
    return [figure for figure in figures if figure is not None]


def _by_seed(excerpts: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The windows of all excerpts for each seed."""
    return [np.concatenate(takes) for takes in zip(*excerpts, strict=True)]


def _scaler(features: np.ndarray, *, scaled: bool) -> Callable[[np.ndarray], np.ndarray]:
    return FeatureScaler.of(features) if scaled else lambda values: values


def _figure(measure: str, system: str, values: Sequence[float | None]) -> SetFigure | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return SetFigure(measure, system, float(np.mean(known)), min(known), max(known), len(known))

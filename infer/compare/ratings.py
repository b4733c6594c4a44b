"""Sheets of ratings from several raters, and what can be said from them.

A sheet file is what the comparison page exports. The units of every statistic are samples: each sample's ratings are
averaged over its raters first, since two raters of one sample do not judge independently of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import stats

from common.config import Config, check_config, read_json
from common.errors import UserError
from infer.compare.axes import AXES, Scores

OVERALL = "overall"
"""Mean of a sheet's five scores."""
FEWEST_RATERS = 3
CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0

Name = Annotated[str, Field(min_length=1)]


class Sheet(Config):
    """What one rater says of one model on one sample."""

    sample_id: Name
    model: Name
    scores: Scores
    comments: str = ""
    overall: Annotated[float, Field(ge=1, le=5)] | None = None
    """As the page writes it; it is computed anew from the scores."""


class Vote(Config):
    """Which of two models' bands fits the voice better."""

    sample_id: Name
    models: tuple[Name, Name]
    """In the order in which they were offered."""
    better: Name | None
    """One of the two; null is no difference."""


class SheetFile(Config):
    """What the page exports for one rater."""

    rater: str = ""
    """Empty: the file's name."""
    seed: int | None = None
    """What shuffled the order for this rater."""
    ratings: tuple[Sheet, ...] = ()
    pairs: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AxisMean:
    """How a model is rated on an axis: the mean over samples, its interval by bootstrap over them."""

    axis: str
    model: str
    mean: Interval
    samples: int


@dataclass(frozen=True)
class WinRate:
    """How often `first` was preferred to `second` among votes that prefer one, with Wilson's interval."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    rate: Interval | None  # None where no vote prefers one


@dataclass(frozen=True)
class Difference:
    """Wilcoxon's signed-rank test of two models on one axis, over the samples that both were rated on."""

    axis: str
    first: str
    second: str
    samples: int
    mean_difference: float  # first - second
    p: float
    p_holm: float  # corrected for the pairs of models on this axis


@dataclass(frozen=True)
class Summary:
    """All that `infer ratings` says."""

    raters: tuple[str, ...]
    models: tuple[str, ...]
    samples: tuple[str, ...]
    means: tuple[AxisMean, ...]
    win_rates: tuple[WinRate, ...]
    differences: tuple[Difference, ...]
    agreement: dict[str, float | None]  # axis -> Krippendorff's alpha (ordinal); null where it is not defined
    warnings: tuple[str, ...]


def read_sheets(paths: Sequence[Path]) -> tuple[SheetFile, ...]:
    """The files as the page exports them, as one sheet, or as a list of sheets; the rater is then the file's name.

    Raises UserError that names the file and the field; also where one rater rates one thing twice.
    """
    files = tuple(_read_file(path) for path in paths)
    seen: dict[tuple[str, str, str], Path] = {}
    for path, file in zip(paths, files, strict=True):
        keys = [(sheet.sample_id, sheet.model) for sheet in file.ratings]
        keys.extend((vote.sample_id, " against ".join(sorted(vote.models))) for vote in file.pairs)
        for key in keys:
            if (earlier := seen.setdefault((file.rater, *key), path)) != path or keys.count(key) > 1:
                what = f"{key[1]} on {key[0]}"
                raise UserError(
                    f"{path}: rater {file.rater} rates {what} twice (also in {earlier}). Leave one of them out."
                )
    return files


def _read_file(path: Path) -> SheetFile:
    values = read_json(path)
    if isinstance(values, dict) and "sample_id" in values:
        values = [values]
    if isinstance(values, list):
        values = {"ratings": values}
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; a sheet file is what comparison.html exports.")
    file = check_config(SheetFile, values, str(path))
    for number, vote in enumerate(file.pairs):
        if vote.models[0] == vote.models[1] or vote.better not in (None, *vote.models):
            raise UserError(
                f"{path}: pairs.{number}: better is {vote.better!r}, which is not one of two {vote.models}."
            )
    return file.model_copy(update={"rater": file.rater.strip() or path.stem})


def summarise(files: Sequence[SheetFile]) -> Summary:
    """Everything from the sheets. Raises UserError where nothing in them is rated."""
    scores = _scores(files)
    votes = [vote for file in files for vote in file.pairs]
    if not votes and not any(scores.values()):
        raise UserError("nothing is rated in these files. Rate in comparison.html and export from there.")
    rated = {key for table in scores.values() for key in table}
    models = sorted({model for _, _, model in rated} | {model for vote in votes for model in vote.models})
    samples = sorted({sample for _, sample, _ in rated} | {vote.sample_id for vote in votes})
    raters = sorted({rater for rater, _, _ in rated} | {file.rater for file in files if file.pairs})
    means = {axis: _sample_means(table) for axis, table in scores.items()}
    return Summary(
        raters=tuple(raters),
        models=tuple(models),
        samples=tuple(samples),
        means=tuple(
            AxisMean(axis, model, bootstrap_mean(list(units.values())), len(units))
            for axis, by_model in means.items()
            for model, units in sorted(by_model.items())
        ),
        win_rates=tuple(win_rate(votes, *pair) for pair in combinations(models, 2) if votes),
        differences=tuple(test for axis in scores for test in compare_models(axis, means[axis])),
        agreement={axis: _agreement(table) for axis, table in scores.items() if table},
        warnings=tuple(_warnings(len(raters), len(samples))),
    )


Table = dict[tuple[str, str, str], float]  # rater, sample, model -> score


def _scores(files: Sequence[SheetFile]) -> dict[str, Table]:
    """The scores of each axis, and of `overall` where all five are rated."""
    tables: dict[str, Table] = {axis: {} for axis in (*AXES, OVERALL)}
    for file in files:
        for sheet in file.ratings:
            key, scores = (file.rater, sheet.sample_id, sheet.model), sheet.scores.model_dump()
            given = {axis: float(score) for axis, score in scores.items() if score is not None}
            for axis, score in given.items():
                tables[axis][key] = score
            if len(given) == len(AXES):
                tables[OVERALL][key] = float(np.mean(list(given.values())))
    return tables


def _sample_means(table: Table) -> dict[str, dict[str, float]]:
    """model -> sample -> mean over raters."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for (_, sample, model), score in table.items():
        gathered.setdefault(model, {}).setdefault(sample, []).append(score)
    return {model: {s: float(np.mean(given)) for s, given in units.items()} for model, units in gathered.items()}


def bootstrap_mean(values: Sequence[float]) -> Interval:
    """Mean, and its percentile interval under resampling with a fixed seed."""
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, dtype=np.float64)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.mean(values)), float(low), float(high))


def win_rate(votes: Sequence[Vote], first: str, second: str) -> WinRate:
    """The votes between two models, counted."""
    between = [vote.better for vote in votes if set(vote.models) == {first, second}]
    wins, losses = between.count(first), between.count(second)
    rate = None
    if wins + losses:
        bounds = stats.binomtest(wins, wins + losses).proportion_ci(CONFIDENCE, method="wilson")
        rate = Interval(wins / (wins + losses), float(bounds.low), float(bounds.high))
    return WinRate(first, second, wins, losses, between.count(None), rate)


def compare_models(axis: str, means: Mapping[str, Mapping[str, float]]) -> list[Difference]:
    """Every pair of models on one axis. `means` are model -> sample -> mean over raters."""
    tests = []
    for first, second in combinations(sorted(means), 2):
        shared = sorted(means[first].keys() & means[second].keys())
        if shared:
            differences = np.array([means[first][sample] - means[second][sample] for sample in shared])
            tests.append((first, second, differences, signed_rank_p(differences)))
    corrected = holm([p for *_, p in tests])
    return [
        Difference(axis, first, second, differences.size, float(differences.mean()), p, p_holm)
        for (first, second, differences, p), p_holm in zip(tests, corrected, strict=True)
    ]


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's test, zeros left out; 1 where every difference is zero."""
    rounded = np.round(differences, 9)  # means that differ in their last bit are tied
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of several p: the k-th smallest of m times m - k + 1, never falling, at most 1."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected


def _agreement(table: Table) -> float | None:
    units: dict[tuple[str, str], list[float]] = {}
    for (_, sample, model), score in table.items():
        units.setdefault((sample, model), []).append(score)
    return krippendorff_alpha(list(units.values()))


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the ordinal metric; each unit holds the scores that its raters gave.

    1 is full agreement, 0 what chance gives. None where no unit has two raters, or every score is the same.
    """
    paired = [unit for unit in units if len(unit) > 1]
    values = sorted({score for unit in paired for score in unit})
    place = {value: index for index, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for unit in paired:
        counts = np.bincount([place[score] for score in unit], minlength=len(values)).astype(np.float64)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=0)
    middle = np.cumsum(totals) - totals / 2
    distance = np.square(middle[:, None] - middle)
    expected = (np.outer(totals, totals) * distance).sum()
    return float(1 - (totals.sum() - 1) * (coincidences * distance).sum() / expected) if expected else None


def _warnings(raters: int, samples: int) -> list[str]:
    found = []
    if raters < FEWEST_RATERS:
        found.append(f"{raters} rater{'s' * (raters != 1)}: fewer than {FEWEST_RATERS}; ask more before you conclude.")
    if 2.0 ** (1 - samples) > 1 - CONFIDENCE:
        found.append(
            f"{samples} sample{'s' * (samples != 1)}: Wilcoxon's test cannot go below p = {2.0 ** (1 - samples):.2g}; "
            "rate at least 6."
        )
    return found

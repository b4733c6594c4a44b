"""All results as one report, and the report as tables.

A song's value is its mean over the seeds; means and 95 % intervals are over songs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from common.config import Config
from common.errors import UserError
from common.files import whole_file
from infer.compare.ratings import Interval, bootstrap_mean
from recipe.objectives.band_measures import BandMeasures
from recipe.objectives.settings import DEFAULT

MARKS = ("<!-- measured -->", "<!-- end of what was measured -->")
"""In a document, the tables stand between these."""
SHARES: Mapping[str, str] = {
    "key": "Songs whose key signature the band has",
    "tempo": "Songs whose tempo the band has",
    "beats": "F-measure of the beats",
    "chords": "Share of half seconds with the song's chord",
}
GAINS = ("x0_gain", "gain_over_muted", "gain_over_shifted", "conditioning_gain")
LEVELLED = ("loss", "gain_over_muted", "conditioning_gain")
"""What is shown by noise level."""


class Result(Config):
    """What was found of one system with one seed, song by song."""

    own: tuple[BandMeasures, ...]
    """Bands made for the song's own vocal; of text2music, for none; of the anchors, the true ones."""
    exchanged: tuple[BandMeasures, ...] = ()
    """Bands for another song's vocal, held against the same song: the null. Empty where there is no vocal."""
    gains: dict[str, float] = Field(default_factory=dict)
    """Validation on the judged songs; empty where nothing was trained."""


class Number(Config):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> "Number":
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class MeasureSummary(Config):
    """One measure of one system."""

    own: float
    by_seed: tuple[float, ...]
    """The same of each seed."""
    exchanged: float | None
    difference: Number | None
    """Of own and exchanged, song by song."""
    over_default: Number | None
    """Of own and what the arm that all are compared with reaches, song by song; null without it."""


class Leak(Config):
    """leak_fine of one system."""

    median: float
    over_true: Number
    """Its mean difference, song by song, to the true accompaniment."""


class System(Config):
    """All about one way to make bands."""

    steps: int | None
    """Of its training; null where there is none."""
    gains: dict[str, Number]
    """Mean over the seeds, from the lowest end of their 95 % intervals to the highest."""
    levels: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Mean over the seeds of the loss, and of the gain over a muted and an exchanged vocal, by noise level."""
    measured: dict[str, MeasureSummary]
    leak: Leak
    distances: tuple[float, ...]
    """Of its bands from true ones, by seed; empty for the anchors."""


class ObjectivesReport(Config):
    """What the command found."""

    songs: int
    """That judged."""
    seeds: tuple[int, ...]
    compared_with: str = DEFAULT
    """The arm that the others are compared with."""
    training_seconds: float | None
    """Processor seconds that a training was given; null where all had the same number of steps."""
    step_seconds: dict[str, float]
    """What a step cost, by shipped config; empty where all had the same number of steps."""
    distance_of_others: float
    """Of true bands of other songs from those of the judged ones."""
    systems: dict[str, System]


def summarise(
    results: Sequence[Result],
    *,
    true: Result,
    default: Sequence[Result] | None,
    distances: Sequence[float],
    steps: int | None,
) -> System:
    """One system from its results, one for each seed, beside those of the true bands and of DEFAULT."""
    leak = _by_song(results, lambda result: result.own, "leak_fine")
    of_true = _by_song([true], lambda result: result.own, "leak_fine")
    return System(
        steps=steps,
        gains={name: _gain([result.gains for result in results], name) for name in GAINS if results[0].gains},
        levels={name: _by_level([result.gains for result in results], name) for name in LEVELLED if results[0].gains},
        measured={name: _measure(results, default, name) for name in SHARES},
        leak=Leak(median=float(np.median(leak)), over_true=Number.of(bootstrap_mean(list(leak - of_true)))),
        distances=tuple(distances),
    )


def _by_song(results: Sequence[Result], fits: Callable[[Result], Sequence[BandMeasures]], name: str) -> np.ndarray:
    """A measure of each song, its mean over the seeds."""
    return np.mean([[getattr(fit, name) for fit in fits(result)] for result in results], axis=0)


def _measure(results: Sequence[Result], default: Sequence[Result] | None, name: str) -> MeasureSummary:
    own = _by_song(results, lambda result: result.own, name)
    exchanged = _by_song(results, lambda result: result.exchanged, name)
    usual = _by_song(default, lambda result: result.own, name) if default else None
    return MeasureSummary(
        own=float(own.mean()),
        by_seed=tuple(float(_by_song([result], lambda result: result.own, name).mean()) for result in results),
        exchanged=float(exchanged.mean()) if exchanged.size else None,
        difference=Number.of(bootstrap_mean(list(own - exchanged))) if exchanged.size else None,
        over_default=None if usual is None else Number.of(bootstrap_mean(list(own - usual))),
    )


def _gain(figures: Sequence[Mapping[str, float]], name: str) -> Number:
    return Number(
        value=float(np.mean([found[f"val/{name}"] for found in figures])),
        low=min(found[f"val/{name}_low"] for found in figures),
        high=max(found[f"val/{name}_high"] for found in figures),
    )


def _by_level(figures: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Noise level -> mean over the seeds."""
    mark = f"val/{name}_at_"
    levels = [key.removeprefix(mark) for key in figures[0] if key.startswith(mark)]
    return {level: float(np.mean([found[mark + level] for found in figures])) for level in levels}


def tables(report: ObjectivesReport) -> str:
    """The report in Markdown."""
    costs = ", ".join(f"{seconds:.3f} s for {name}" for name, seconds in report.step_seconds.items())
    head = f"{report.songs} songs, seeds {', '.join(map(str, report.seeds))}."
    if report.training_seconds is not None:
        head += f" Each training was given {report.training_seconds:.0f} s of one core; a step took {costs}."
    parts = [head + "\n", "### What training reached\n", _gain_table(report)]
    parts += ["### At which noise level\n", _level_table(report)]
    for name, title in SHARES.items():
        parts += [f"### {title}\n", _share_table(report, name)]
    parts += ["### How much of the vocal is in the band (leak_fine)\n", _leak_table(report)]
    return "\n".join([*parts, "### How unlike true bands they are\n", _distance_table(report)])


def _gain_table(report: ObjectivesReport) -> str:
    rows = [
        (name, str(system.steps), *(str(system.gains[gain]) for gain in GAINS))
        for name, system in report.systems.items()
        if system.gains
    ]
    return markdown_table(("objective", "steps", *GAINS), rows)


def _level_table(report: ObjectivesReport) -> str:
    """The loss by noise level, and how much lower it is than with the vocal muted or exchanged."""
    found = [
        (name, what, by_level) for name, system in report.systems.items() for what, by_level in system.levels.items()
    ]
    levels = list(found[0][2]) if found else []
    rows = [(name, what, *(f"{by_level[level]:.3f}" for level in levels)) for name, what, by_level in found]
    return markdown_table(("objective", "", *levels), rows)


def _share_table(report: ObjectivesReport, measure: str) -> str:
    rows = []
    for name, system in report.systems.items():
        found = system.measured[measure]
        exchanged = "" if found.exchanged is None else f"{found.exchanged:.3f}"
        seeds = ", ".join(f"{value:.3f}" for value in found.by_seed)
        differences = (str(number or "") for number in (found.difference, found.over_default))
        rows.append((name, f"{found.own:.3f}", exchanged, *differences, seeds))
    over = f"own vocal, over {report.compared_with}"
    head = ("objective", "own vocal", "another's", "difference", over, "own vocal, by seed")
    return markdown_table(head, rows)


def _leak_table(report: ObjectivesReport) -> str:
    floor = report.systems["true"].leak.median
    rows = [
        (name, f"{system.leak.median:.3f}", f"{system.leak.median - floor:+.3f}", str(system.leak.over_true))
        for name, system in report.systems.items()
    ]
    return markdown_table(("objective", "median", "above the true median", "mean above the true band"), rows)


def _distance_table(report: ObjectivesReport) -> str:
    rows = [
        (name, f"{np.mean(system.distances):.2f}", ", ".join(f"{value:.2f}" for value in system.distances))
        for name, system in report.systems.items()
        if system.distances
    ]
    others = ("true bands of other songs", f"{report.distance_of_others:.2f}", "")
    return markdown_table(("objective", "Frechet distance of latent frames", "by seed"), [others, *rows])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_report(report: ObjectivesReport, document: Path) -> None:
    """The report as JSON beside a document, and its tables between the document's marks.

    A document that is not there is begun; in one that is, all but the tables stays. Raises UserError where it has
    not both marks.
    """
    text = document.read_text(encoding="utf-8") if document.is_file() else f"# Objectives\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, begun, rest = text.partition(MARKS[0])
    _, ended, after = rest.partition(MARKS[1])
    if not (begun and ended):
        raise UserError(f"{document}: has not the lines {MARKS[0]} and {MARKS[1]}, between which the tables go.")
    written = f"{before}{MARKS[0]}\n\n{tables(report)}\n{MARKS[1]}{after}"
    for path, content in (
        (document.with_suffix(".json"), report.model_dump_json(indent=1) + "\n"),
        (document, written),
    ):
        with whole_file(path) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")

"""What `infer ratings` says: a table for a terminal, JSON, and a page."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from common.canonical import canonical_json
from common.files import whole_file
from common.table import in_columns
from infer.compare.ratings import Interval, Summary
from infer.compare.templates import fill

PAGE_FILE = "ratings.html"
NAMES = ("axis", "model", "first", "second")
"""Columns of names, which keep to the left."""


def as_json(summary: Summary) -> str:
    """Everything, for a program."""
    return canonical_json(asdict(summary), indent=2)


def as_text(summary: Summary) -> str:
    """Everything, for a terminal."""
    blocks = [_counts(summary)]
    blocks += [f"{title}\n{in_columns([head, *rows])}" for title, head, rows in _tables(summary) if rows]
    return "\n\n".join(blocks)


def write_report(summary: Summary, folder: Path) -> Path:
    """Write ratings.html to a folder; its path comes back."""
    page = fill(
        "ratings.html",
        counts=_counts(summary),
        warnings=summary.warnings,
        chart=[(_spaced(mean.axis), mean.model, mean.mean) for mean in summary.means],
        tables=_tables(summary),
        names=NAMES,
    )
    with whole_file(folder / PAGE_FILE) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")
    return folder / PAGE_FILE


def _counts(summary: Summary) -> str:
    counted = ((summary.raters, "rater"), (summary.models, "model"), (summary.samples, "sample"))
    return ", ".join(f"{len(names)} {what}{'s' * (len(names) != 1)}" for names, what in counted)


Rows = list[tuple[str, ...]]


def _tables(summary: Summary) -> Iterable[tuple[str, tuple[str, ...], Rows]]:
    """Title, head and rows of each table, as text."""
    yield (
        "Means, with 95 % bootstrap intervals over samples",
        ("axis", "model", "mean", "interval", "samples"),
        [(_spaced(m.axis), m.model, f"{m.mean.value:.2f}", _bounds(m.mean), str(m.samples)) for m in summary.means],
    )
    yield (
        "Which band fits the voice better, with Wilson's 95 % intervals",
        ("first", "second", "first wins", "second wins", "no difference", "win rate of first", "interval"),
        [(w.first, w.second, str(w.wins), str(w.losses), str(w.ties), *_rate(w.rate)) for w in summary.win_rates],
    )
    yield (
        "Wilcoxon's signed-rank test over samples, corrected for several pairs by Holm",
        ("axis", "first", "second", "difference", "samples", "p", "p (Holm)"),
        [
            (
                _spaced(d.axis),
                d.first,
                d.second,
                f"{d.mean_difference:+.2f}",
                str(d.samples),
                f"{d.p:.3g}",
                f"{d.p_holm:.3g}",
            )
            for d in summary.differences
        ],
    )
    yield (
        "Agreement between raters (Krippendorff's alpha, ordinal)",
        ("axis", "alpha"),
        [
            (_spaced(axis), "not defined" if alpha is None else f"{alpha:.2f}")
            for axis, alpha in summary.agreement.items()
        ],
    )


def _spaced(axis: str) -> str:
    return axis.replace("_", " ")


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def _rate(rate: Interval | None) -> tuple[str, str]:
    return ("-", "-") if rate is None else (f"{rate.value:.2f}", _bounds(rate))

"""What `infer ratings` says: a table for a terminal, JSON, and a page."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from common.canonical import canonical_json
from common.files import whole_file
from common.table import in_columns
from infer.compare.page import asset, fill
from infer.compare.ratings import Interval, Summary

PAGE_FILE = "ratings.html"
NAMES = ("axis", "model", "first", "second")
"""Columns of names."""


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
    sections = "".join(_section(*table) for table in _tables(summary))
    warnings = "".join(f"<p class='warning'>{escape(line)}</p>" for line in summary.warnings)
    values = {
        "style": asset("page.css"),
        "counts": escape(_counts(summary)),
        "warnings": warnings,
        "chart": _chart(summary),
        "sections": sections,
    }
    with whole_file(folder / PAGE_FILE) as partial:
        partial.write_text(fill("ratings.html", values), encoding="utf-8", newline="\n")
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


def _section(title: str, head: Sequence[str], rows: Rows) -> str:
    """A table under its title; nothing where it has no rows."""
    if not rows:
        return ""
    body = "".join(_row(cells, head, "td") for cells in rows)
    table = f"<table><thead>{_row(head, head, 'th')}</thead><tbody>{body}</tbody></table>"
    return f"<section class='report'><h2>{escape(title)}</h2><div class='wide'>{table}</div></section>"


def _row(cells: Sequence[str], head: Sequence[str], kind: str) -> str:
    """A row of a table; what stands under a column of names keeps to the left."""
    sides = [" class='left'" if name in NAMES else "" for name in head]
    return f"<tr>{''.join(f'<{kind}{s}>{escape(cell)}</{kind}>' for cell, s in zip(cells, sides, strict=True))}</tr>"


def _chart(summary: Summary) -> str:
    """Means as dots on the scale from 1 to 5, in the bar of their interval."""
    lines = []
    for mean in summary.means:
        left, middle, right = (25 * (value - 1) for value in (mean.mean.low, mean.mean.value, mean.mean.high))
        bar = f"<i style='left:{left:.1f}%;width:{right - left:.1f}%'></i><b style='left:{middle:.1f}%'></b>"
        lines.append(
            f"<tr><td class='left'>{escape(_spaced(mean.axis))}</td><td class='left'>{escape(mean.model)}</td>"
            f"<td>{mean.mean.value:.2f}</td><td><span class='range'>{bar}</span></td></tr>"
        )
    return "".join(lines)

"""What a study found, as one HTML page that loads nothing: Optuna's charts with plotly.js inlined, and every trial."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import (
    plot_intermediate_values,
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_slice,
)
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from common.files import whole_file
from common.pages import page_templates
from train.search.queue import FAILURE, PROCESS
from train.search.trial import CONFIG, FIGURES, SECONDS, SEEDS, shown, uses_vocal, value_of

ASSETS = Path(__file__).with_name("assets")
CHOICE = (
    "Best is the complete trial with the {better} {metric} after its last step, of those whose gains over a muted and "
    "over another song's vocal are above 0 with 95 % confidence: a trial that may not listen to the vocal is never the "
    "best, however good its {metric} is."
)
FEW = "Shares of PED-ANOVA over {count} complete trials: hints rather than findings while those are few."
FEASIBLE = "Of a setting with named choices, Optuna shows only the trials that listen to the vocal."
NONE_YET = "No trial has come this far."
TOO_FEW = "At least two complete trials with different figures are needed."
CHART_HEIGHT = 440
"""Height of a chart, in pixels."""


@dataclass(frozen=True)
class ReportChart:
    """One section of the page: a chart, or why there is none."""

    title: str
    figure: str | None  # HTML
    note: str = ""


@dataclass(frozen=True)
class TrialRow:
    """One trial as the page's table shows it."""

    number: int
    is_best: bool
    state: str
    reason: str  # why it failed or stopped; empty if it did not
    cells: tuple[str, ...]  # in the order of the table's heads, from the metric on
    details: str  # config, seeds and process as JSON


def write_report(path: Path, study: Study, best: FrozenTrial | None, *, left: int, metric: str) -> None:
    """Write the page of a study with `left` trials to go. Raises UserError where the disk refuses."""
    trials = study.get_trials()
    maximise = study.direction == StudyDirection.MAXIMIZE
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    page = (
        page_templates(ASSETS)
        .get_template("search.html")
        .render(
            study=study.study_name,
            counts=counted(trials, left),
            best="No trial is the best yet" if best is None else f"Best is {summary(best, metric)}",
            choice=CHOICE.format(better="highest" if maximise else "lowest", metric=metric),
            plotlyjs=get_plotlyjs(),
            charts=_charts(study, metric),
            heads=(metric, "gain over muted", *names, "step", "seconds"),
            rows=[_row(trial, names, metric, best) for trial in _ordered(trials, maximise=maximise)],
        )
    )
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def counted(trials: Sequence[FrozenTrial], left: int) -> str:
    """How many trials ended how, in words."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    numbers = {
        "complete": sum(trial.state == TrialState.COMPLETE for trial in trials),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
        "failed": sum(FAILURE in trial.user_attrs for trial in failed),
    }
    done = sum(numbers.values())
    text = f"{done} trial{'s' * (done != 1)}: " + ", ".join(f"{number} {name}" for name, number in numbers.items())
    stopped = len(failed) - numbers["failed"]
    return text + (f"; {left} to go" if left else "") + (f"; {stopped} stopped and begun anew" if stopped else "")


def summary(trial: FrozenTrial, metric: str) -> str:
    """A trial's figures and its parameters, in one line."""
    figures = trial.user_attrs[FIGURES]
    gain, low, high = (figures[f"val/gain_over_muted{end}"] for end in ("", "_low", "_high"))
    drawn = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    return (
        f"trial {trial.number}: {metric} {figures[metric]:.4f}, gain over muted {gain:.4f} [{low:.4f}, {high:.4f}]; "
        f"{drawn}"
    )


def _charts(study: Study, metric: str) -> list[ReportChart]:
    """Optuna's charts of a study; those of complete trials show trials that may not listen to the vocal in grey."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    reported = any(trial.intermediate_values for trial in study.get_trials(deepcopy=False))
    differing = len({value_of(trial) for trial in complete}) > 1
    return [
        _chart("History", lambda: plot_optimization_history(study, target_name=metric), when=bool(complete)),
        _chart(
            "Importances",
            lambda: plot_param_importances(study, target_name=metric),
            when=differing,
            otherwise=TOO_FEW,
            note=FEW.format(count=len(complete)),
        ),
        _chart("Slices", lambda: plot_slice(study, target_name=metric), when=bool(complete), note=FEASIBLE),
        _chart(
            "Parallel coordinates", lambda: plot_parallel_coordinate(study, target_name=metric), when=bool(complete)
        ),
        _chart(
            "Intermediate values",
            lambda: plot_intermediate_values(study).update_yaxes(title=metric),
            when=reported,
            note="Each line is a trial; a pruned one ends early.",
        ),
    ]


def _chart(
    title: str, plot: Callable[[], Figure], *, when: bool, otherwise: str = NONE_YET, note: str = ""
) -> ReportChart:
    """The section of one chart, or what it says instead `otherwise`."""
    if not when:
        return ReportChart(title, None, otherwise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how few trials there are: the page says it too
        figure = plot()
    figure.update_layout(title=None, template="plotly_white", height=CHART_HEIGHT, margin={"t": 48, "r": 32})
    return ReportChart(
        title,
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=title.lower().replace(" ", "-"),
            config={"displaylogo": False},
        ),
        note,
    )


def _ordered(trials: Sequence[FrozenTrial], *, maximise: bool) -> list[FrozenTrial]:
    """Trials by state, those that listen to the vocal first, the better before the worse."""
    sign = -1 if maximise else 1
    return sorted(
        trials, key=lambda t: (t.state.name, not uses_vocal(t), sign * (value_of(t) if t.values else 0.0), t.number)
    )


def _row(trial: FrozenTrial, names: Sequence[str], metric: str, best: FrozenTrial | None) -> TrialRow:
    """The row of a trial; `names` are the parameters that have a column."""
    attributes = trial.user_attrs
    figures, seconds = attributes.get(FIGURES), attributes.get(SECONDS)
    gain = "-"
    if figures:
        value, low, high = (figures[f"val/gain_over_muted{end}"] for end in ("", "_low", "_high"))
        gain = f"{value:.3f} [{low:.3f}, {high:.3f}]"
    cells = (
        f"{figures[metric]:.4f}" if figures else "-",
        gain,
        *(shown(trial.params[name]) if name in trial.params else "-" for name in names),
        str(trial.last_step or "-"),
        f"{sum(seconds.values()):.1f}" if seconds else "-",
    )
    return TrialRow(
        number=trial.number,
        is_best=best is not None and trial.number == best.number,
        state=trial.state.name.lower(),
        reason=attributes.get(FAILURE) or ("stopped, begun anew" if trial.state == TrialState.FAIL else ""),
        cells=cells,
        details=json.dumps(
            {name: attributes[name] for name in (CONFIG, SEEDS, PROCESS) if name in attributes}, indent=2
        ),
    )

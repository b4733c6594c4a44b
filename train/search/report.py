"""What a study found, as one HTML page that loads nothing: history, importances, slices, ways, curves, every trial."""

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from common.files import whole_file
from train.search.charts import NARROW, Axis, Line, Mark, axis_over, bars, parallel, plot
from train.search.queue import FAILURE, PROCESS
from train.search.trial import CONFIG, FIGURES, SECONDS, SEEDS, listens, shown, value_of

PAGE = Path(__file__).with_name("assets") / "search.html"
CHOICE = (
    "Best is the complete trial with the {better} {metric} after its last step, of those whose val/conditioning_gain "
    "is above 0 with 95 % confidence: a trial that may not listen to the vocal is never the best, however good its "
    "{metric} is."
)
FEW = "Shares of PED-ANOVA over {count} complete trials: hints rather than findings while those are few."


def write_report(path: Path, study: Study, best: FrozenTrial | None, *, left: int, metric: str) -> None:
    """Write the page. Raises UserError where the disk refuses."""
    trials = study.get_trials()
    valued = [trial for trial in trials if trial.values and trial.state.is_finished()]
    sections = [
        _section("History", _history(valued, best, study, metric)),
        _section("What matters", _importances(study)),
        _section("Setting by setting", _slices(valued, best, metric)),
        _section("Ways through all settings", _ways(valued, study, metric)),
        _section("Pruned against complete", _curves(valued, metric)),
        _section("Every trial", _table(trials, best, study, metric)),
    ]
    values = {
        "study": escape(study.study_name),
        "counts": escape(counted(trials, left)),
        "best": _best(best, study, metric),
        "sections": "".join(sections),
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], PAGE.read_text(encoding="utf-8"))
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
    """A trial's figures and what it tried, in one line."""
    figures = trial.user_attrs[FIGURES]
    gain, low, high = (figures[f"val/conditioning_gain{end}"] for end in ("", "_low", "_high"))
    drawn = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    return (
        f"trial {trial.number}: {metric} {figures[metric]:.4f}, conditioning gain {gain:.4f} [{low:.4f}, {high:.4f}]; "
        f"{drawn}"
    )


def _best(best: FrozenTrial | None, study: Study, metric: str) -> str:
    better = "highest" if study.direction == StudyDirection.MAXIMIZE else "lowest"
    said = "No trial is the best yet" if best is None else f"Best is {summary(best, metric)}"
    choice = CHOICE.format(better=better, metric=metric)
    return f"<p>{escape(said)}.</p><p class='soft'><small>{escape(choice)}</small></p>"


def _kind(trial: FrozenTrial, best: FrozenTrial | None = None) -> str:
    if best is not None and trial.number == best.number:
        return "best"
    if trial.state == TrialState.PRUNED:
        return "pruned"
    return "complete" if listens(trial) else "deaf"


def _note(trial: FrozenTrial, metric: str) -> str:
    drawn = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    return f"trial {trial.number} ({trial.state.name.lower()}): {metric} {value_of(trial):.4f}; {drawn}"


def _history(valued: Sequence[FrozenTrial], best: FrozenTrial | None, study: Study, metric: str) -> str:
    if not valued:
        return _nothing()
    highest = study.direction == StudyDirection.MAXIMIZE
    record: list[tuple[float, float]] = []
    for trial in valued:
        if trial.state == TrialState.COMPLETE and listens(trial):
            value = value_of(trial)
            before = record[-1][1] if record else value
            now = max(before, value) if highest else min(before, value)
            record += [(trial.number, before), (trial.number, now)]
    x = axis_over("trial", [trial.number for trial in valued], whole=True)
    y = axis_over(metric, [value_of(trial) for trial in valued])
    marks = [Mark(trial.number, value_of(trial), _kind(trial, best), _note(trial, metric)) for trial in valued]
    lines = [Line(tuple(record), "record", "best so far")]
    return _figure(plot(x, y, marks=marks, lines=lines, about=f"{metric} of each trial, and the best so far"))


def _importances(study: Study) -> str:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({value_of(trial) for trial in complete}) < 2:
        return _nothing("At least two complete trials with different figures are needed.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of how few trials there are: the page says it too
        shares = get_param_importances(study)
    chart = bars(shares, about="share of each setting in what makes trials good")
    return _figure(chart) + f"<p class='soft'><small>{FEW.format(count=len(complete))}</small></p>"


def _slices(valued: Sequence[FrozenTrial], best: FrozenTrial | None, metric: str) -> str:
    if not valued:
        return _nothing()
    y = axis_over(metric, [value_of(trial) for trial in valued])
    charts = []
    for name, axis in _axes(valued).items():
        marks = [
            Mark(_place(trial, name), value_of(trial), _kind(trial, best), _note(trial, metric))
            for trial in valued
            if name in trial.params
        ]
        charts.append(_figure(plot(axis, y, marks=marks, about=f"{metric} by {name}", width=NARROW)))
    return f"<div class='slices'>{''.join(charts)}</div>"


def _ways(valued: Sequence[FrozenTrial], study: Study, metric: str) -> str:
    axes = _axes(valued)
    whole = [trial for trial in valued if axes.keys() <= trial.params.keys()]
    if not whole:
        return _nothing()
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    ranked = sorted(sign * value_of(trial) for trial in whole)
    goodness = axis_over(metric, [value_of(trial) for trial in whole])
    lines = [
        (
            [*(_place(trial, name) for name in axes), value_of(trial)],
            ranked.index(sign * value_of(trial)) / max(1, len(ranked) - 1),
            _note(trial, metric),
        )
        for trial in whole
    ]
    return _figure(parallel([*axes.values(), goodness], lines, about=f"settings of each trial and its {metric}"))


def _curves(valued: Sequence[FrozenTrial], metric: str) -> str:
    told = [trial for trial in valued if trial.intermediate_values]
    if not told:
        return _nothing()
    x = axis_over("optimiser step", [step for trial in told for step in trial.intermediate_values], whole=True)
    y = axis_over(metric, [value for trial in told for value in trial.intermediate_values.values()])
    lines, marks = [], []
    for trial in told:
        points = tuple((float(step), value) for step, value in sorted(trial.intermediate_values.items()))
        lines.append(Line(points, _kind(trial), _note(trial, metric)))
        marks.append(Mark(*points[-1], _kind(trial), _note(trial, metric)))
    return _figure(plot(x, y, marks=marks, lines=lines, about=f"{metric} at each validation of each trial"))


def _table(trials: Sequence[FrozenTrial], best: FrozenTrial | None, study: Study, metric: str) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    heads = ("trial", "state", metric, "conditioning gain", *names, "step", "seconds", "config")
    head = "".join(f"<th{' class=left' if name in {'state', 'config'} else ''}>{escape(name)}</th>" for name in heads)
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    ordered = sorted(
        trials, key=lambda t: (t.state.name, not listens(t), sign * (value_of(t) if t.values else 0.0), t.number)
    )
    rows = "".join(_row(trial, names, metric, is_best=_kind(trial, best) == "best") for trial in ordered)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _row(trial: FrozenTrial, names: Sequence[str], metric: str, *, is_best: bool) -> str:
    notes = trial.user_attrs
    figures, seconds = notes.get(FIGURES, {}), notes.get(SECONDS)
    gain = "-"
    if figures:
        value, low, high = (figures[f"val/conditioning_gain{end}"] for end in ("", "_low", "_high"))
        gain = f"{value:.3f} [{low:.3f}, {high:.3f}]"
    cells = [
        f"{figures[metric]:.4f}" if figures else "-",
        gain,
        *(shown(trial.params[name]) if name in trial.params else "-" for name in names),
        str(trial.last_step or "-"),
        f"{sum(seconds.values()):.1f}" if seconds else "-",
    ]
    why = notes.get(FAILURE) or ("stopped, begun anew" if trial.state == TrialState.FAIL else "")
    state = escape(trial.state.name.lower()) + (f"<small>{escape(why)}</small>" if why else "")
    whole = {name: notes[name] for name in (CONFIG, SEEDS, PROCESS) if name in notes}
    details = f"<details><summary>show</summary><pre>{escape(json.dumps(whole, indent=2))}</pre></details>"
    middle = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    row = f"<td>{trial.number}</td><td class=left>{state}</td>{middle}<td class=left>{details}</td>"
    return f"<tr{' class=best' if is_best else ''}>{row}</tr>"


def _axes(trials: Iterable[FrozenTrial]) -> dict[str, Axis]:
    """The axis of each setting that trials drew."""
    axes = {}
    for trial in trials:
        for name, found in trial.distributions.items():
            match found:
                case CategoricalDistribution(choices=choices):
                    names = tuple(str(choice) for choice in choices)
                    axes[name] = Axis(name, -0.5, len(choices) - 0.5, names=names)
                case FloatDistribution() | IntDistribution():
                    whole = isinstance(found, IntDistribution)
                    axes[name] = Axis(name, found.low, found.high, log=found.log, whole=whole)
    return axes


def _place(trial: FrozenTrial, name: str) -> float:
    """Where a drawn value stands on its setting's axis."""
    return trial.distributions[name].to_internal_repr(trial.params[name])


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _figure(chart: str) -> str:
    return f"<figure>{chart}</figure>"


def _nothing(why: str = "No trial has come this far.") -> str:
    return f"<p class='soft'>{why}</p>"

"""The report of a study: one file that loads nothing and says what happened, whatever happened."""

import re
from html.parser import HTMLParser

import optuna
import pytest
from optuna.trial import TrialState

from train.search.charts import Axis, axis_over
from train.search.queue import FAILURE
from train.search.report import counted, summary, write_report

METRIC = "val/x0_gain"


def figures(gain, low):
    return {
        METRIC: gain,
        "val/conditioning_gain": low + 0.1,
        "val/conditioning_gain_low": low,
        "val/conditioning_gain_high": low + 0.2,
    }


def objective(trial):
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    rank = trial.suggest_int("lora_rank", 4, 16, step=4)
    modules = trial.suggest_categorical("target_modules", ['["to_q"]', '["<b>&to_v"]'])
    if trial.number == 4:
        trial.set_user_attr(FAILURE, "step 3: <nan>")
        raise ZeroDivisionError
    if trial.number == 5:
        raise ZeroDivisionError
    value = rate * 100 + rank / 100 + len(modules) / 1000
    for step in (5, 10):
        trial.report(value * step / 10, step)
        trial.set_user_attr("figures", figures(value * step / 10, -0.05 if trial.number == 1 else 0.01))
        if trial.number in {2, 3}:
            raise optuna.TrialPruned
    trial.set_user_attr("config", {"learning_rate": rate, "exp_name": "</pre><script>"})
    trial.set_user_attr("seconds", {"training": 1.0, "validation": 0.5})
    return value


@pytest.fixture
def study():
    """Complete, deaf, pruned, failed, stopped and waiting trials."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    made = optuna.create_study(study_name="a-study", direction="maximize", sampler=sampler)
    made.optimize(objective, n_trials=9, catch=(ZeroDivisionError,))
    made.enqueue_trial({})
    return made


class Page(HTMLParser):
    """Tags, their attributes, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag, kind=None):
        return sum(each == tag and kind in {None, given.get("class")} for each, given in self.tags)


def written(study, best, tmp_path, left=0):
    write_report(tmp_path / "report.html", study, best, left=left, metric=METRIC)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_shows_every_trial_and_loads_nothing(study, tmp_path):
    best = study.trials[0]
    text = written(study, best, tmp_path, left=1)
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, given in page.tags if given.get("href") != "data:,"}
    assert not re.search(r"https?://|url\(|@import", text)
    assert re.findall("<h2>(.*?)</h2>", text) == [
        "History",
        "What matters",
        "Setting by setting",
        "Ways through all settings",
        "Pruned against complete",
        "Every trial",
    ]
    assert page.count("tr") == 1 + len(study.trials)
    assert page.count("svg") == 3 + 1 + 1 + 3 + 1 + 1  # key, history, importances, slices, ways, curves
    assert page.count("polyline", "way") == 7
    assert page.count("polyline", "pruned") == 2
    assert page.count("circle", "pruned") == 1 + 2 * (1 + 3 + 1)
    assert page.count("circle", "best") == 1 + 3
    assert "9 trials" not in page.text
    assert "8 trials: 5 complete, 2 pruned, 1 failed; 1 to go; 1 stopped and begun anew" in page.text
    assert f"Best is {summary(best, METRIC)}." in page.text
    assert "a trial that may not listen to the vocal is never the best" in page.text
    assert "step 3: <nan>" in page.text
    assert "</pre><script>" in page.text
    assert '["<b>&to_v"]' in page.text


@pytest.mark.parametrize("count", [0, 1])
def test_a_report_of_next_to_nothing(count, tmp_path):
    study = optuna.create_study(direction="minimize", study_name="s")
    study.optimize(objective, n_trials=count)
    page = Page(written(study, None, tmp_path, left=3))
    assert f"{count} trial{'s' * (count != 1)}: {count} complete, 0 pruned, 0 failed; 3 to go" in page.text
    assert "No trial is the best yet." in page.text
    assert "At least two complete trials with different figures are needed." in page.text


def test_counts_tell_failures_from_stops(study):
    assert counted(study.trials, 0) == "8 trials: 5 complete, 2 pruned, 1 failed; 1 stopped and begun anew"
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 2


def test_axes_place_values_between_their_ends_and_mark_round_numbers():
    even, log = Axis("", 2.0, 4.0), Axis("", 1e-5, 1e-3, log=True)
    assert [even.place(value) for value in (2.0, 3.0, 4.0)] == [0.0, 0.5, 1.0]
    assert log.place(1e-4) == pytest.approx(0.5)
    assert [text for _, text in log.ticks()] == ["1e-05", "0.0001", "0.001"]
    assert [text for _, text in Axis("", 0.0, 1.0).ticks()] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert all(value == round(value) for value, _ in axis_over("", [0, 3], whole=True).ticks())
    assert axis_over("", [5.0, 5.0]).place(5.0) == pytest.approx(0.5)
    assert Axis("", 3.0, 3.0).place(3.0) == 0.5
    names = Axis("", -0.5, 1.5, names=("a", "a very long name of a choice"))
    assert [text for _, text in names.ticks()] == ["a", "a very long name …"]

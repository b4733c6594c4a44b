"""The report of a study: one file that loads nothing and says what happened, whatever happened."""

from html.parser import HTMLParser

import optuna
import pytest
from optuna.trial import TrialState

from train.search.queue import FAILURE
from train.search.report import counted, summary, write_report

METRIC = "val/x0_gain"


def figures(gain, low):
    return {
        METRIC: gain,
        "val/gain_over_muted": low + 0.1,
        "val/gain_over_muted_low": low,
        "val/gain_over_muted_high": low + 0.2,
        "val/conditioning_gain_low": 0.1,
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
    low = -0.05 if trial.number == 1 else 0.01
    trial.set_constraint("val/gain_over_muted_low", -low)
    for step in (5, 10):
        trial.report(value * step / 10, step)
        trial.set_user_attr("figures", figures(value * step / 10, low))
        if trial.number in {2, 3}:
            raise optuna.TrialPruned
    trial.set_user_attr("config", {"learning_rate": rate, "exp_name": "</pre><script>"})
    trial.set_user_attr("seconds", {"training": 1.0, "validation": 0.5})
    return value


@pytest.fixture
def study():
    """Complete (one may not listen to the vocal), pruned, failed, stopped and waiting trials."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    made = optuna.create_study(study_name="a-study", direction="maximize", sampler=sampler)
    made.optimize(objective, n_trials=9, catch=(ZeroDivisionError,))
    made.enqueue_trial({})
    return made


class Page(HTMLParser):
    """Tags, their attributes, and the text of a page but for its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.cdata_elem is None:
            self.text += data

    def count(self, tag):
        return sum(each == tag for each, _ in self.tags)


def written(study, best, tmp_path, left=0):
    write_report(tmp_path / "report.html", study, best, left=left, metric=METRIC)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_names_every_trial_and_loads_nothing(study, tmp_path):
    best = study.trials[0]
    page = Page(written(study, best, tmp_path, left=1))
    addresses = [given[name] for _, given in page.tags for name in ("src", "href") if name in given]
    assert addresses == ["data:,"]
    assert page.count("tr") == 1 + len(study.trials)
    assert page.count("figure") == 5
    assert "9 trials" not in page.text
    assert "8 trials: 5 complete, 2 pruned, 1 failed; 1 to go; 1 stopped and begun anew" in page.text
    assert f"Best is {summary(best, METRIC)}." in page.text
    assert "a trial that may not listen to the vocal is never the best" in page.text
    assert "step 3: <nan>" in page.text
    assert "</pre><script>" in page.text
    assert '["<b>&to_v"]' in page.text


def test_a_report_draws_its_charts_without_a_network(study, tmp_path, browser):
    written(study, study.trials[0], tmp_path)
    page = browser.new_page()
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    address = (tmp_path / "report.html").as_uri()
    page.goto(address)
    headings = ["History", "Importances", "Slices", "Parallel coordinates", "Intermediate values", "Every trial"]
    assert page.locator("h2").all_inner_texts() == headings
    page.wait_for_function("document.querySelectorAll('figure .main-svg').length >= 5")
    assert page.locator("#history .scatterlayer .point").count() == 5
    assert page.locator("#importances .barlayer .point").count() == 3
    assert page.locator("#slices .scatterlayer .point").count() >= 4 * 3
    assert page.locator("#parallel-coordinates .scatterlayer .js-line").count() == 5
    assert page.locator("#intermediate-values .scatterlayer .js-line").count() == 7
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address]
    assert errors == []
    page.close()


@pytest.mark.parametrize("count", [0, 1])
def test_a_report_of_next_to_nothing(count, tmp_path):
    study = optuna.create_study(direction="minimize", study_name="s")
    study.optimize(objective, n_trials=count)
    page = Page(written(study, None, tmp_path, left=3))
    assert f"{count} trial{'s' * (count != 1)}: {count} complete, 0 pruned, 0 failed; 3 to go" in page.text
    assert "No trial is the best yet." in page.text
    assert "At least two complete trials with different figures are needed." in page.text
    assert page.count("figure") == 4 * count


def test_counts_tell_failures_from_stops(study):
    assert counted(study.trials, 0) == "8 trials: 5 complete, 2 pruned, 1 failed; 1 stopped and begun anew"
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 2

"""A study from its first trial to its report, in this process."""

import hashlib
import os
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train.data.loader
import train.search.trial
from common.command import run
from common.config import check_config, load_config
from common.errors import UserError
from models.adapters.lora import LoraLayer
from models.loading.checkpoint import TINY
from shards.reader import read_manifest
from train.cli import _beside, app
from train.config import TrainingConfig
from train.data.clips import ClipMaker
from train.loop.fit import fit
from train.loop.preparation import adapters_on, make_data, open_base, open_shards
from train.loop.validation import listens
from train.search.config import OptunaConfig
from train.search.process import best_of, make_pruner, search
from train.search.trial import failure

pytestmark = pytest.mark.usefixtures("few_clips")

RATE = {"type": "loguniform", "low": 1e-6, "high": 1e-1}
SPACE = {
    "image2image": {"learning_rate": RATE, "lora_rank": {"type": "int", "low": 2, "high": 4}},
    "controlnet": {"learning_rate": RATE, "controlnet_scale": {"type": "float", "low": 0.5, "high": 2.0}},
}


def searched(space, **settings):
    given = {
        "search_space": space,
        "n_trials": 4,
        "trial_steps": 2,
        "report_every_n_steps": 1,
        "pruner_n_startup_trials": 1,
        "pruner_n_warmup_steps": 1,
    }
    return check_config(OptunaConfig, given | settings, "search")


@pytest.fixture
def eight_clips(few_clips, monkeypatch):
    """As many as make a gain sure, so that a trial may be the best."""
    monkeypatch.setattr("train.loop.validation.FEWEST_CLIPS", 8)


@pytest.fixture
def run_of(song_shards, tiny_config):
    """run_of("controlnet") is a run on the songs of this test."""

    def make(mode="image2image", **settings):
        given = {
            "accumulate_grad_batches": 1,
            "max_steps": 100,
            "accompaniment": {"output_type": "mix"},
            "crop_seconds": 1.0,
        }
        return tiny_config(song_shards, mode, **given | settings)

    return make


@pytest.fixture
def do(tmp_path):
    """do(config, wanted) is how a search of them ends, in tmp_path."""

    def search_here(config, wanted):
        return search(config, wanted, storage=f"sqlite:///{tmp_path}/s.db", study_name="s", out=tmp_path)

    return search_here


def digest(module):
    """All that a module holds and runs: names, kinds, bits, hooks."""
    made = hashlib.sha256()
    for name, part in module.named_modules():
        hooks = [kind for kind, held in vars(part).items() if kind.endswith("_hooks") and held]
        made.update(repr((name, type(part).__name__, hooks, part.training)).encode())
    for name, tensor in module.state_dict().items():
        made.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


def assert_untouched(transformer, before):
    assert digest(transformer) == before
    assert not [module for module in transformer.modules() if isinstance(module, LoraLayer)]
    assert not hasattr(transformer, "peft_config")
    assert not transformer._hf_peft_config_loaded
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in transformer.parameters())


@pytest.fixture
def opened_bases(monkeypatch):
    """Every base that searches open, with its digest before the first trial."""
    bases = []
    plain = train.search.trial.open_base

    def noted(config, base):
        transformer = plain(config, base)
        bases.append((transformer, digest(transformer)))
        return transformer

    monkeypatch.setattr(train.search.trial, "open_base", noted)
    return bases


@pytest.fixture
def shards_read(monkeypatch):
    """How often each shard was read."""
    reads = Counter()
    plain = train.data.loader.read_shard

    def noted(place, entry, **given):
        reads[entry.name] += 1
        return plain(place, entry, **given)

    monkeypatch.setattr(train.data.loader, "read_shard", noted)
    return reads


@pytest.mark.parametrize("mode", [pytest.param("image2image", marks=pytest.mark.slow), "controlnet"])
def test_a_study_shares_one_base_and_one_cache_and_leaves_what_train_run_takes(
    run_of, do, mode, opened_bases, shards_read, song_shards, tmp_path, capsys
):
    config, wanted = run_of(mode), searched(SPACE[mode])
    outcome = do(config, wanted)
    states = Counter(trial.state for trial in outcome.trials)
    assert (len(outcome.trials), outcome.left) == (4, 0)
    assert states.keys() == {TrialState.COMPLETE, TrialState.PRUNED}
    ((transformer, before),) = opened_bases
    assert_untouched(transformer, before)
    assert set(shards_read.values()) == {1}
    assert shards_read.keys() == {entry.name for entry in read_manifest(song_shards).shards}

    for trial in outcome.trials:
        assert trial.user_attrs["seeds"]["training"] == config.seed
        assert set(trial.intermediate_values) <= {1, 2}
    assert len({trial.user_attrs["seeds"]["sampler"] for trial in outcome.trials}) == 4
    complete = next(trial for trial in outcome.trials if trial.state == TrialState.COMPLETE)
    folder = tmp_path / "runs" / "s" / f"trial_{complete.number:04d}"
    curves = EventAccumulator(str(folder)).Reload()
    assert "_hparams_/session_start_info" in curves.summary_metadata
    assert [event.value for event in curves.Scalars("trial/x0_gain")] == [pytest.approx(complete.values[0])]
    again = fit(load_config(TrainingConfig, folder / "config.json").model_copy(update={"exp_name": "again"}))
    assert again.figures == complete.user_attrs["figures"]
    said = capsys.readouterr()
    assert said.out == ""
    assert "Trial" not in said.err  # Optuna's own words


@pytest.mark.usefixtures("eight_clips")
def test_the_best_is_a_config_that_train_run_takes(run_of, do, tmp_path):
    config = run_of()
    outcome = do(config, searched(SPACE["image2image"], n_trials=1))
    assert outcome.best is not None
    assert outcome.best_config == tmp_path / "s_best.json"
    best = load_config(TrainingConfig, outcome.best_config)
    drawn = {"learning_rate": best.learning_rate, "lora_rank": best.lora.r}
    assert drawn == outcome.best.params
    assert best.model_copy(update={"learning_rate": config.learning_rate, "lora": config.lora}) == config
    assert fit(best.model_copy(update={"max_steps": 1, "val_fraction": 0.0})).step == 1


def test_a_study_whose_trials_ignore_the_vocal_has_no_best(run_of, do, tmp_path):
    """A control encoder that is silent when fresh, and does not move."""
    still = {"learning_rate": {"type": "categorical", "choices": [1e-30]}}
    outcome = do(run_of("controlnet"), searched(still, n_trials=1, trial_steps=1))
    assert [trial.state for trial in outcome.trials] == [TrialState.COMPLETE]
    assert outcome.trials[0].user_attrs["figures"]["val/gain_over_muted"] == 0
    assert (outcome.best, outcome.best_config) == (None, None)
    assert not (tmp_path / "s_best.json").exists()
    assert "No trial is the best yet" in outcome.report.read_text()


def test_what_breaks_in_a_trial_is_recorded_and_the_search_goes_on(run_of, do):
    rates = {"learning_rate": {"type": "categorical", "choices": [1e-3, 1e30]}}
    outcome = do(run_of(), searched(rates, n_trials=4))
    broken = [trial for trial in outcome.trials if trial.params["learning_rate"] == 1e30]
    assert 0 < len(broken) < 4
    for trial in broken:
        assert trial.state == TrialState.FAIL
        assert "is not finite" in trial.user_attrs["failure"]
    assert outcome.left == 0


def test_memory_that_does_not_suffice_is_the_trials_fault_and_a_bug_is_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert str(failure(caught.value)).startswith("out of memory (")
    assert failure(RuntimeError("CUDA error: out of memory")) == "out of memory (CUDA error: out of memory)"
    assert failure(RuntimeError("expected scalar type Float")) is None


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_gives_the_trial_back_and_a_rerun_goes_on_to_the_exact_number(
    run_of, do, monkeypatch, opened_bases, number, capsys
):
    config, wanted = run_of(), searched(SPACE["image2image"], n_trials=2, report_every_n_steps=2)
    plain, cuts = ClipMaker.cut, []

    def interrupting(maker, samples, **given):
        cuts.append(samples)
        if len(cuts) == 3:  # amid the second trial
            os.kill(os.getpid(), number)
        return plain(maker, samples, **given)

    monkeypatch.setattr(ClipMaker, "cut", interrupting)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    outcome = do(config, wanted)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert (outcome.interrupted_by, outcome.left) == (number, 1)
    assert f"{number.name}: stopping after this step; the trial goes back into the queue" in capsys.readouterr().err
    states = [trial.state for trial in outcome.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING]
    again = do(config, wanted)
    assert (again.left, again.interrupted_by) == (0, None)
    done = [trial for trial in again.trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.user_attrs["slot"] for trial in done) == [0, 1]
    stopped, anew = (trial for trial in again.trials if trial.user_attrs["slot"] == 1)
    assert stopped.params == anew.params
    for transformer, before in opened_bases:
        assert_untouched(transformer, before)


def test_time_that_is_up_starts_no_further_trial(run_of, do, capsys):
    outcome = do(run_of(), searched(SPACE["image2image"], n_trials=50, timeout=1))
    assert 0 < outcome.left < 50
    assert outcome.left == sum(trial.state == TrialState.WAITING for trial in outcome.trials)
    assert "timeout: no further trial after 1 s" in capsys.readouterr().err


def test_a_search_needs_songs_to_validate_on_and_a_fitting_length(run_of, do):
    with pytest.raises(UserError) as caught:
        do(run_of(val_fraction=0.0), searched(SPACE["image2image"]))
    assert str(caught.value).endswith(
        "shards: 0 songs to validate on, and trials are compared by validation. Raise val_fraction, or build more "
        "songs (at least 3)."
    )
    with pytest.raises(UserError) as caught:
        do(run_of(max_steps=1), searched(SPACE["image2image"]))
    assert str(caught.value).startswith("trial_steps 2: the run that trials shorten has max_steps 1.")


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {"r": 3, "use_dora": True, "lora_dropout": 0.5, "target_modules": ("to_q", "lyric_proj", "linear_q")}},
        {"base_dtype": "bfloat16", "lora": {"r": 2, "blocks": (0, 1)}},
        {"base_dtype": "int8", "ema_decay": 0.5},
        {"gradient_checkpointing": True},
    ],
)
def test_adapters_leave_a_base_as_it_was_even_where_they_fail(run_of, settings):
    config = run_of(**settings)
    data = make_data(config, open_shards(config, features=False))
    transformer = open_base(config, TINY)
    before = digest(transformer)
    with adapters_on(transformer, config, "f", data) as module:
        assert digest(transformer) != before
        for parameter in module.trained.values():
            torch.nn.init.normal_(parameter)
    assert_untouched(transformer, before)
    with pytest.raises(ZeroDivisionError), adapters_on(transformer, config, "f", data):
        raise ZeroDivisionError
    too_deep = config.model_copy(update={"lora": config.lora.model_copy(update={"blocks": (0, 99)})})
    with pytest.raises(UserError), adapters_on(transformer, too_deep, "f", data):
        pass
    assert_untouched(transformer, before)


def trial(value, low, state=TrialState.COMPLETE):
    figures = {"val/gain_over_muted_low": low, "val/conditioning_gain_low": 0.1}
    return create_trial(state=state, value=value, user_attrs={"figures": figures})


def test_a_trial_that_may_not_listen_is_never_the_best():
    ignoring, unsure = trial(0.9, -0.01), trial(0.8, 0.0)
    good, better = trial(0.2, 0.001), trial(0.3, 0.001)
    ended = trial(0.7, 0.5, TrialState.PRUNED)
    assert best_of([ignoring, good, unsure, better, ended], "val/x0_gain") is better
    assert best_of([ignoring, good, unsure, better, ended], "val/loss") is good
    assert best_of([ignoring, unsure, ended], "val/x0_gain") is None


@pytest.mark.usefixtures("eight_clips")
def test_optuna_agrees_about_what_is_best(run_of, do, tmp_path):
    """So that its dashboard shows the same."""
    outcome = do(run_of(), searched(SPACE["image2image"], n_trials=2, trial_steps=1))
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    for trial in outcome.trials:
        feasible = all(value <= 0 for value in trial.constraints.values())
        assert feasible == listens(trial.user_attrs["figures"])
    assert outcome.best is not None
    assert study.best_trial.number == outcome.best.number


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        ("median", optuna.pruners.MedianPruner),
        ("successive_halving", optuna.pruners.SuccessiveHalvingPruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_each_pruner_ends_what_is_worse_at_a_report(pruner, kind):
    """Twelve made-up trials, the first the best: with optimiser steps as steps, as trials report them."""
    wanted = searched(
        {"learning_rate": RATE}, pruner_type=pruner, trial_steps=9, pruner_max_resource=9, pruner_reduction_factor=3
    )
    made = make_pruner(wanted)
    assert isinstance(made, kind)
    study = optuna.create_study(direction="maximize", pruner=made, study_name="made-up")
    ended = 0
    for number in range(12):
        trial = study.ask()
        for step in (1, 2, 3):
            trial.report(-float(number), step)
            if trial.should_prune():
                ended += 1
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, -float(number))
    assert ended > 0
    assert study.trials[0].state == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--study-name", "a/b"],
            "--study-name a/b: it names files; use letters, digits, dots, dashes and underscores.",
        ),
        (["--set", "n_trials=0"], "optuna_search: n_trials: Input should be greater than or equal to 1, got 0"),
        (["--set", "lora.rr=0"], "defaults: unknown key lora.rr; did you mean r?"),
        (
            ["--set", 'search_space={"lora_rnk": {"type": "int", "low": 1, "high": 2}}'],
            "search_space: there is no setting lora_rnk; did you mean lora_rank?",
        ),
        (["--shards", "nothing"], "nothing: no manifest.json here. Make shards with: prep build-shards raw/ nothing"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(app, ["search", *arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == f"error: {message}"
    assert list(tmp_path.iterdir()) == []


def test_results_lie_beside_a_config_of_ones_own_and_here_for_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    assert _beside("mine/run.json") == Path("mine")
    assert _beside("tiny_image2image") == _beside(None) == Path()

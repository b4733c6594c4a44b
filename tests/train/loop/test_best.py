import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train.loop.callbacks
from models.adapters.adapter import read_card
from shards.held_out import validation_songs
from train.loop.checkpoint import BEST, find_last
from train.loop.fit import fit
from train.loop.validation import listens


@pytest.fixture
def learnable(make_shards, tiny_config):
    """learnable(**settings): a mix holds its vocal, which a few quick steps learn to use."""
    shards = make_shards({f"song{number}": [24] for number in range(9)})
    mixes = {"output_type": "mix", "strength_range": (0.9, 1.0), "reference_strength": 1.0}

    def make(**settings):
        usual = {"learning_rate": 2e-2, "val_every_n_steps": 3, "accumulate_grad_batches": 1}
        return tiny_config(shards, accompaniment=mixes, **usual | {"checkpoint_every_n_steps": 100} | settings)

    return make


def best_of(outcome):
    return json.loads((outcome.folder / "checkpoints" / BEST).read_text())


def test_the_best_that_listens_is_kept_and_named_also_after_a_resume(learnable):
    first = fit(learnable(max_steps=6))
    assert first.best is not None
    outcome = fit(learnable(max_steps=12), resume_from=find_last(learnable()))
    named = best_of(outcome)
    gains = EventAccumulator(str(outcome.folder)).Reload().Scalars("val/x0_gain")
    highest = max(gains, key=lambda event: event.value)
    assert named["step"] == highest.step
    assert named["figures"]["val/x0_gain"] == pytest.approx(highest.value)
    assert listens(named["figures"])
    assert outcome.best is not None
    assert outcome.best.model_dump() == named
    card = read_card(outcome.folder / "checkpoints" / named["adapter"])
    assert (card.step, card.validation) == (named["step"], named["figures"])


def test_given_vocals_decide_where_there_are_eight_songs_of_them(make_shards, learnable, tiny_config, capsys):
    """All but two of the songs that are validated on have given vocals."""
    songs = {f"song{number}": [12] for number in range(20)}
    kept = sorted(validation_songs(list(songs), 0.5))
    shards = make_shards(songs, separated=kept[:2])
    outcome = fit(learnable(max_steps=6, val_fraction=0.5, dataset_path=str(shards), val_every_n_steps=6))
    given = len(kept) - 2
    assert given >= 8
    assert (
        f"validation: {given} songs have given vocals, 2 separated ones; val/x0_gain_clean, of the given ones, decides "
        "which adapter is best"
    ) in capsys.readouterr().err.splitlines()
    named = best_of(outcome)
    assert outcome.best is not None
    assert named["decided_by"] == "val/x0_gain_clean"
    assert outcome.best.gain == named["figures"]["val/x0_gain_clean"] != named["figures"]["val/x0_gain"]
    assert listens(named["figures"], "clean")


def test_a_model_that_does_not_listen_is_never_the_best(song_shards, tiny_config):
    deaf = {"a_max": 0.0}  # what is left, the projection, starts at zero
    outcome = fit(tiny_config(song_shards, accompaniment=deaf, max_steps=1, learning_rate=1e-12))
    assert not listens(outcome.figures)
    assert outcome.best is None
    assert not (outcome.folder / "checkpoints" / BEST).exists()


def test_a_crash_before_best_json_leaves_the_older_one_true(learnable, monkeypatch):
    plain, calls = train.loop.callbacks.save_best, []

    def crashing(folder, best):
        calls.append(best)
        if len(calls) == 2:
            raise KeyboardInterrupt
        plain(folder, best)

    monkeypatch.setattr(train.loop.callbacks, "save_best", crashing)
    config = learnable(max_steps=12)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(config)
    (file,) = find_checkpoints(config).glob(BEST)
    named = json.loads(file.read_text())
    assert named["step"] == calls[0].step < calls[1].step
    assert read_card(file.with_name(named["adapter"])).validation == named["figures"]


def find_checkpoints(config):
    return train.loop.callbacks.Path(config.logger_dir) / config.exp_name / "version_0" / "checkpoints"

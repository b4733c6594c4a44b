"""The search itself, on bands whose worth is a formula of the settings: no network is asked."""

import pytest
import torch

from common.errors import UserError
from infer.compare.ratings import Interval
from infer.tune.songs import MadeBand, SongScore
from infer.tune.space import Recommended, TuningSpace
from infer.tune.study import LEAK_LIMIT, TuningSetup, TuningStudy, read_tuning
from infer.tune.tune import TuneOutcome, told
from models.adapters.adapter import read_card
from models.adapters.shipped import SHIPPED
from models.flow.sampler import SamplerSettings

EARLY = SamplerSettings(vocal_guidance_scale=2.5, vocal_guidance="cfg", vocal_guidance_interval=(0.7, 1.0))
CARD = read_card(SHIPPED / "controlnet").model_copy(update={"sampler": EARLY})
SETUP = TuningSetup(adapter="a", shards="b", songs=tuple(f"song {number}" for number in range(8)), seed=3)


def bands(settings: Recommended):
    """Better the nearer the scale is to 4, a little worse from song to song; with cfg the vocal leaks."""
    sampler = settings.sampler
    for number, _ in enumerate(SETUP.songs):
        share = 1 / (1 + abs(sampler.guidance_scale - 4)) - 0.01 * number
        leak = 2 * LEAK_LIMIT if sampler.guidance == "cfg" else 0.0
        yield MadeBand(torch.full((1,), sampler.steps), SongScore(chords=share, beats=share, key=share, leak=leak))


def distance(made):
    """In few steps further from true bands."""
    return 1.0 if float(made[0].latents[0]) >= 40 else 2.0


def study_in(folder) -> TuningStudy:
    path = folder / "tuning.json"
    tuning = read_tuning(path, SETUP)
    return TuningStudy(path, tuning, TuningSpace(Recommended.of(CARD), CARD))


def run(study: TuningStudy, trials: int) -> TuningStudy:
    while len(study.tuning.trials) < trials:
        study.run_next(bands, distance)
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return run(study_in(folder), 24), folder


def test_the_best_is_better_than_before_and_within_the_limits(whole):
    tuning = whole[0].tuning
    before, best = tuning.before, tuning.best
    assert before.settings == Recommended.of(CARD)
    assert best.fit > before.fit
    assert best.settings.sampler.guidance != "cfg"
    assert best.settings.sampler.steps >= 40
    leaking = [trial for trial in tuning.trials if trial.leak > LEAK_LIMIT]
    assert leaking
    assert max(trial.fit for trial in leaking) > before.fit  # what the limits are for


def test_a_gain_is_told_with_its_songs_and_only_of_enough_of_them(whole):
    tuning, sure, unsure = whole[0].tuning, Interval(0.3, 0.2, 0.4), Interval(0.3, -0.1, 0.7)
    text = told(TuneOutcome(tuning, 24, ("sampler.steps was 60, is 40",), sure))
    assert "fits better: +0.300 [+0.200, +0.400] over trial 0 on 8 songs" in text
    assert "prove nothing" in text
    assert "sampler.steps was 60, is 40" in text
    assert "cannot tell whether it fits better" in told(TuneOutcome(tuning, 24, ("a was 1, is 2",), unsure))
    few = tuning.model_copy(update={"setup": SETUP.model_copy(update={"songs": SETUP.songs[:5]})})
    assert not TuneOutcome(few, 24, (), sure).is_sure
    assert "none is better than the settings" in told(TuneOutcome(tuning, 24, (), unsure))


def test_what_is_surely_worse_is_given_up_early(whole):
    given_up = [trial for trial in whole[0].tuning.trials if trial.distance is None]
    assert given_up
    assert all(len(trial.songs) < len(SETUP.songs) for trial in given_up)


def test_a_study_that_was_stopped_goes_on_as_if_nothing_had_happened(whole, tmp_path):
    for trials in (1, 2, 9, 24):
        run(study_in(tmp_path), trials)
    assert (tmp_path / "tuning.json").read_bytes() == (whole[1] / "tuning.json").read_bytes()


def test_a_study_of_something_else_is_refused(whole):
    path = whole[1] / "tuning.json"
    with pytest.raises(UserError, match=r"tuning\.json: begun with seed 3, now 4\. Delete this file to begin anew\."):
        read_tuning(path, SETUP.model_copy(update={"seed": 4}))

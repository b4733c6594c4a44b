"""What is drawn becomes settings that the sampler takes, around those that an adapter had."""

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import create_study

from infer.tune.space import Recommended, TuningSpace
from models.adapters.adapter import read_card
from models.adapters.conditioning import Conditioning
from models.adapters.shipped import SHIPPED
from models.flow.sampler import SamplerSettings

EARLY = SamplerSettings(vocal_guidance_scale=2.5, vocal_guidance="cfg", vocal_guidance_interval=(0.7, 1.0))
FROM_NOISE_ALONE = Conditioning(source_projection=False)


def space_of(sampler: SamplerSettings, conditioning: Conditioning | None = None) -> TuningSpace:
    card = read_card(SHIPPED / "controlnet").model_copy(update={"sampler": sampler})
    card = card.model_copy(update={"conditioning": conditioning or card.conditioning})
    return TuningSpace(Recommended.of(card), card)


@pytest.mark.parametrize(
    ("sampler", "conditioning"),
    [
        (EARLY, None),
        (SamplerSettings(guidance="cfg_zero_star", steps=7), None),
        (SamplerSettings(guidance="none", guidance_scale=1, steps=1), None),
        (SamplerSettings(guidance="cfg", guidance_scale=20, vocal_guidance_scale=9), None),
        (SamplerSettings(vocal_guidance_scale=0.5, vocal_guidance_interval=(0.95, 1.0)), None),
        (SamplerSettings(), FROM_NOISE_ALONE),
    ],
)
def test_whatever_is_drawn_goes_together(sampler, conditioning):
    space = space_of(sampler, conditioning)
    study = create_study(sampler=RandomSampler(seed=0))
    for start in space.starts():
        study.enqueue_trial(start)
    for number in range(40):
        drawn = study.ask(space.distributions).params
        settings = space.settings(drawn).sampler  # refused here if they did not go together
        if number < 2:  # what is begun with is among what can be drawn
            assert {name: drawn[name] for name in space.starts()[number]} == space.starts()[number]
        assert settings.steps <= sampler.steps
        if conditioning is FROM_NOISE_ALONE or sampler.guidance == "none":
            assert settings.vocal_guidance_scale is None
        if sampler.guidance == "none":
            assert settings.guidance == "none"


def test_the_first_start_is_what_the_adapter_had():
    space = space_of(EARLY)
    assert space.settings(space.starts()[0]) == space.before


def test_strengths_are_those_of_the_training():
    space = space_of(EARLY)
    found = space.distributions["reference_strength"]
    assert isinstance(found, FloatDistribution)
    assert (found.low, found.high) == (0.3, 1.0)
    whole = space.card.model_copy(update={"strength_range": (1.0, 1.0)})
    assert "reference_strength" not in TuningSpace(space.before, whole).distributions

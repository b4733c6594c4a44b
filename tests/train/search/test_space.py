"""What a search may vary, and what it says to what it may not."""

import json
from pathlib import Path

import pytest

from common.config import CONFIGS, check_config, leaves, load_config
from common.errors import UserError
from train.config import TrainingConfig
from train.search.config import OptunaConfig
from train.search.space import (
    FIXED_SETTINGS,
    ONLY_IN_MODE,
    check_length,
    config_with,
    short_names,
    shortened,
    space_of,
)

OLDER = Path(__file__).parents[1] / "older_configs"


def wanted(space, **settings):
    return check_config(OptunaConfig, {"search_space": space, **settings}, "search")


def space(config, **entries):
    return space_of(config, wanted(entries))


CONTROLNET = load_config(TrainingConfig, None, ["accompaniment.mode=controlnet"])
IMAGE2IMAGE = TrainingConfig()
RATE = {"type": "loguniform", "low": 1e-5, "high": 1e-3}


def test_the_older_file_is_shipped_unchanged_and_serves_both_modes():
    shipped = json.loads((CONFIGS / "optuna_search.json").read_text())
    assert shipped == json.loads((OLDER / "optuna_search.json").read_text())
    search = load_config(OptunaConfig, "optuna_search")
    for config, theirs in ((IMAGE2IMAGE, ("controlnet_scale", "control_encoder_depth")), (CONTROLNET, ())):
        found = space_of(config, search)
        assert found.left_out == theirs
        assert {parameter.name for parameter in found.parameters} | set(theirs) == set(search.search_space)
    assert (search.trial_steps, search.report_steps, search.metric) == (1000, 100, "val/x0_gain")


def test_the_older_short_names_and_paths_mean_settings():
    names = short_names()
    assert names["lora_rank"] == "lora.r"
    assert names["lora_alpha"] == "lora.lora_alpha"
    assert names["control_encoder_dim"] == "accompaniment.control_encoder_dim"
    assert names["learning_rate"] == "learning_rate"
    assert set(names.values()) == set(leaves(IMAGE2IMAGE.model_dump()))
    assert space(IMAGE2IMAGE, **{"lora.r": {"type": "int", "low": 4, "high": 8}}).parameters[0].path == "lora.r"
    assert set(names.values()) >= FIXED_SETTINGS | ONLY_IN_MODE["image2image"] | ONLY_IN_MODE["controlnet"]


def test_settings_of_one_mode_are_those_that_say_so():
    fields = type(IMAGE2IMAGE.accompaniment).model_fields
    for mode, listed in ONLY_IN_MODE.items():
        modes = {name: str(field.description).partition(":")[0].split(", ") for name, field in fields.items()}
        named = {name for name, said in modes.items() if mode in said and name != "mode"}
        assert {f"accompaniment.{name}" for name in named} == listed


@pytest.mark.parametrize(
    ("config", "entries", "message"),
    [
        (IMAGE2IMAGE, {"lora_rnk": RATE}, "search_space: there is no setting lora_rnk; did you mean lora_rank?"),
        (
            IMAGE2IMAGE,
            {"lora_rank": {"type": "int", "low": 64, "high": 2048, "step": 64}},
            "search_space.lora_rank, at 2048: lora.r: Input should be less than or equal to 1024, got 2048",
        ),
        (
            IMAGE2IMAGE,
            {"reference_strength": {"type": "float", "low": -0.1, "high": 0.9}},
            "search_space.reference_strength, at -0.1: accompaniment.reference_strength: Input should be greater than "
            "or equal to 0, got -0.1",
        ),
        (
            IMAGE2IMAGE,
            {"control_encoder_dim": {"type": "int", "low": 128, "high": 640, "step": 64}},
            "search_space.control_encoder_dim, at 192: accompaniment.control_encoder_dim: Input should be a multiple "
            "of 128, got 192",
        ),
        (
            IMAGE2IMAGE,
            {"lora_rank": {"type": "float", "low": 4.5, "high": 8}},
            "search_space.lora_rank, at 4.5: lora.r: Input should be a valid integer, got 4.5",
        ),
        (
            IMAGE2IMAGE,
            {"optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]}},
            "search_space.optimizer, at \"sgd\": optimizer: Input should be 'adamw', 'adamw8bit' or 'prodigy', "
            "got 'sgd'",
        ),
        (
            IMAGE2IMAGE,
            {"seed": {"type": "int", "low": 0, "high": 3}},
            "search_space.seed: seed is the same in all trials, which share it, are compared by it, or come out the "
            "same whatever it is. Set it in the config, or leave it.",
        ),
        (
            IMAGE2IMAGE,
            {"objective": {"type": "categorical", "choices": ["bridge_vp", "naive"]}},
            "search_space.objective: gains of objective naive are not comparable with the others'. Leave naive out.",
        ),
        (
            IMAGE2IMAGE,
            {"lora_rank": {"type": "int", "low": 4, "high": 8}, "lora.r": {"type": "int", "low": 4, "high": 8}},
            "search_space: lora_rank and lora.r are both lora.r. Leave one out.",
        ),
        (
            IMAGE2IMAGE,
            {"controlnet_scale": {"type": "float", "low": 0.5, "high": 2.0}},
            "search_space: nothing in it has a meaning in mode image2image. Name a setting of that mode.",
        ),
    ],
)
def test_what_cannot_be_searched_is_one_line(config, entries, message):
    with pytest.raises(UserError) as caught:
        space(config, **entries)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            'search_space={"a": {"type": "int", "low": 64, "high": 500, "step": 64}}',
            "search_space.a.int: high 500 is not reached from low 64 in steps of 64; write 448 or 512",
        ),
        (
            'search_space={"a": {"type": "float", "low": 2, "high": 1}}',
            "search_space.a.float: low 2 is above high 1; exchange them",
        ),
        (
            'search_space={"a": {"type": "loguniform", "low": 0, "high": 1}}',
            "search_space.a.loguniform: low 0 has no logarithm; give one above 0, or type float",
        ),
        (
            "report_every_n_steps=2000",
            "report_every_n_steps 2000 is past the end of a trial, trial_steps 1000; lower it",
        ),
        (
            "pruner_min_resource=2000",
            "pruner_min_resource 2000 is above pruner_max_resource 1000; lower the first or raise the second",
        ),
        ("pruner_type=best", "pruner_type: Input should be 'median', 'successive_halving' or 'hyperband', got 'best'"),
        ("search_space={}", "search_space: Dictionary should have at least 1 item after validation, not 0"),
    ],
)
def test_a_search_that_contradicts_itself_is_one_line(setting, message):
    with pytest.raises(UserError) as caught:
        load_config(OptunaConfig, None, [setting])
    assert str(caught.value).removeprefix("defaults: ").startswith(message)


def test_drawn_values_take_their_places():
    found = space(
        IMAGE2IMAGE,
        lora_rank={"type": "int", "low": 4, "high": 8},
        target_modules={"type": "categorical", "choices": [["to_q"], ["to_q", "to_v"]]},
        use_dora={"type": "categorical", "choices": [False, True]},
    )
    made = config_with(IMAGE2IMAGE, found, {"lora_rank": 5, "target_modules": ["to_q", "to_v"], "use_dora": True})
    assert (made.lora.r, made.lora.target_modules, made.lora.use_dora) == (5, ("to_q", "to_v"), True)
    assert made.model_copy(update={"lora": IMAGE2IMAGE.lora}) == IMAGE2IMAGE


def test_values_that_do_not_go_together_are_named():
    found = space(
        IMAGE2IMAGE,
        a_max={"type": "categorical", "choices": [0.0, 0.3]},
        source_projection={"type": "categorical", "choices": [False, True]},
    )
    with pytest.raises(UserError) as caught:
        config_with(IMAGE2IMAGE, found, {"a_max": 0.0, "source_projection": False})
    assert str(caught.value) == (
        "a_max 0.0, source_projection False: accompaniment: a_max 0 without source_projection leaves the vocal no way "
        "in; set one of them"
    )


def test_a_trial_is_the_run_in_short():
    config = load_config(TrainingConfig, None, ["warmup_steps=500", "early_stop_patience=3", "compile=true"])
    search = wanted({"learning_rate": RATE}, trial_steps=200)
    short = shortened(config, search)
    assert (short.max_steps, short.warmup_steps, short.val_every_n_steps) == (200, 20, 20)
    assert (short.early_stop_patience, short.compile) == (0, True)
    with pytest.raises(UserError) as caught:
        check_length(config.model_copy(update={"max_steps": 100}), search)
    assert str(caught.value) == (
        "trial_steps 200: the run that trials shorten has max_steps 100. Set trial_steps to 100 or less."
    )

from pathlib import Path

import pytest

from common.bases import ACE_STEP_1
from common.config import CONFIGS, load_config, read_json
from common.errors import UserError
from models.acestep1.sizes import PUBLISHED, TINY
from models.acestep15.sizes import STANDARD, TINY_TRANSFORMER, XL
from models.flow.control import check_layers
from train.config import TARGET_MODULES, AccompanimentConfig, LoRAConfig, TrainingConfig
from train.search.config import OptunaConfig

OLDER = Path(__file__).parent / "older_configs"


@pytest.mark.parametrize("name", ["image2image_base", "controlnet_base"])
def test_older_files_load_unchanged_and_ours_say_the_same(name, capsys):
    theirs = load_config(TrainingConfig, OLDER / f"{name}.json")
    assert capsys.readouterr().err == (
        f"{OLDER / name}.json: ssl_depths is ignored (the base says which blocks its feature losses look at)\n"
    )
    ours = load_config(TrainingConfig, name)
    assert theirs.accompaniment.default_strength == (0.5 if name == "image2image_base" else 1.0)
    strength = {"reference_strength": theirs.accompaniment.reference_strength}
    assert ours.model_copy(update={"accompaniment": ours.accompaniment.model_copy(update=strength)}) == theirs
    assert theirs.accumulate_grad_batches == 4
    assert theirs.exp_name == f"accompaniment_{name.removesuffix('_base')}"


def test_settings_that_went_are_ignored_with_one_notice(capsys):
    settings = ["speaker_dropout=0.5", "ssl_depths=[2, 2]", "seed=3"]
    assert load_config(TrainingConfig, None, settings) == TrainingConfig(seed=3)
    assert capsys.readouterr().err == (
        "defaults: speaker_dropout is ignored (shards hold no speaker); "
        "ssl_depths is ignored (the base says which blocks its feature losses look at)\n"
    )


def test_an_older_search_loads_unchanged():
    search = load_config(OptunaConfig, OLDER / "optuna_search.json")
    assert search.search_space["lora_rank"].model_dump() == {"type": "int", "low": 64, "high": 512, "step": 64}
    assert set(search.search_space) == {
        "reference_strength",
        "lora_rank",
        "learning_rate",
        "controlnet_scale",
        "control_encoder_depth",
    }


def test_defaults_are_kept():
    config = TrainingConfig()
    assert config.lora == LoRAConfig(
        r=256, lora_alpha=32, target_modules=("to_q", "to_k", "to_v", "to_out.0"), use_rslora=True, lora_dropout=0.0
    )
    wanted = config.accompaniment
    assert (wanted.mode, wanted.output_type, wanted.default_strength) == ("image2image", "accompaniment", 1.0)
    assert (wanted.control_encoder_depth, wanted.control_encoder_dim, wanted.controlnet_scale) == (6, 1536, 1.0)
    assert wanted.injection_layers == (0, 4, 8, 12)
    assert (config.learning_rate, config.max_steps, config.warmup_steps) == (1e-4, 200_000, 100)
    assert (config.weight_decay, config.batch_size, config.accumulate_grad_batches) == (0.01, 1, 1)
    assert (config.ssl_coeff, config.checkpoint_every_n_steps) == (1.0, 2000)
    assert (config.exp_name, config.logger_dir, config.shift) == ("accompaniment_lora", "./exps/logs/", 3.0)
    assert (config.dataset_path, config.max_duration) == ("./data/accompaniment_dataset", 240.0)


def test_strengths_follow_the_reference_strength():
    assert AccompanimentConfig().strengths == (0.3, 1.0)
    assert AccompanimentConfig(reference_strength=0.1).strengths == (0.1, 1.0)
    narrow = AccompanimentConfig(strength_range=(0.2, 0.6))
    assert (narrow.strengths, narrow.default_strength) == ((0.2, 0.6), 0.6)
    assert AccompanimentConfig().default_strength == 1.0
    assert AccompanimentConfig(reference_strength=0.1).default_strength == 0.1
    assert AccompanimentConfig().vocal_dropout == 0.15
    assert AccompanimentConfig(mode="controlnet").vocal_dropout == 0.1


def test_a_control_encoder_is_trained_near_pure_noise_unless_a_share_is_given():
    control = AccompanimentConfig(mode="controlnet")
    assert (TrainingConfig().noise_share, TrainingConfig(accompaniment=control).noise_share) == (0.0, 0.3)
    assert TrainingConfig(accompaniment=control, high_noise_share=0.0).noise_share == 0.0
    assert TrainingConfig(high_noise_share=0.2).noise_share == 0.2


def test_a_crop_is_counted_in_latent_frames():
    assert TrainingConfig().crop_frames(ACE_STEP_1.latents) == 2584
    assert TrainingConfig(crop_seconds=30).crop_frames(ACE_STEP_1.latents) == 323


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora.r=0", "lora.r: Input should be greater than or equal to 1, got 0"),
        ("lora.r=1025", "lora.r: Input should be less than or equal to 1024, got 1025"),
        ("lora.r=8.5", "lora.r: Input should be a valid integer, got 8.5"),
        (
            'lora.target_modules=["to_q", "ff"]',
            f"lora.target_modules: ff cannot carry an adapter; choose from {', '.join(TARGET_MODULES)}, "
            "got ['to_q', 'ff']",
        ),
        ("lora.blocks=[7, 0]", "lora.blocks: give the first and the last block, such as [0, 7], got [7, 0]"),
        (
            "lora.rank=8",
            "unknown key lora.rank; known: r, lora_alpha, target_modules, use_rslora, lora_dropout, use_dora, blocks.",
        ),
        ("learning_rat=1", "unknown key learning_rat; did you mean learning_rate?"),
        ("accompaniment.a_max=1", "accompaniment.a_max: Input should be less than or equal to 0.95, got 1"),
        (
            "accompaniment.control_encoder_dim=200",
            "accompaniment.control_encoder_dim: Input should be a multiple of 128, got 200",
        ),
        (
            'accompaniment={"strength_range": [0.6, 1], "reference_strength": 0.5}',
            "accompaniment: reference_strength 0.5 is outside strength_range [0.6, 1]; widen strength_range, or "
            "leave it out",
        ),
        (
            "accompaniment.strength_range=[1, 0.5]",
            "accompaniment: strength_range [1, 0.5] is upside down; write the lower strength first",
        ),
        (
            'accompaniment={"a_max": 0, "source_projection": false}',
            "accompaniment: a_max 0 without source_projection leaves the vocal no way in; set one of them",
        ),
        (
            "accompaniment.injection_layers=[0, 0]",
            "accompaniment.injection_layers: name at least one block, each once, got [0, 0]",
        ),
        (
            "optimizer=prodigy",
            "optimizer prodigy finds the learning rate and takes learning_rate as a factor on it, which 0.0001 would "
            "make tiny; set learning_rate to 1",
        ),
        (
            "optimizer=sgd",
            "optimizer: Input should be 'adamw', 'adamw8bit' or 'prodigy', got 'sgd'",
        ),
        (
            "crop_seconds=300",
            "crop_seconds 300 is longer than max_duration 240; shorten the first or lengthen the second",
        ),
    ],
)
def test_mistakes_name_the_key_and_the_way_out(setting, message):
    with pytest.raises(UserError) as caught:
        load_config(TrainingConfig, None, [setting])
    assert str(caught.value) == f"defaults: {message}"


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.mark.parametrize(
    ("name", "mode", "r", "modules", "blocks"),
    [
        ("pattern_a", "image2image", 128, (*ATTENTION, "lyric_proj"), None),
        ("pattern_b", "controlnet", 256, (*ATTENTION, "genre_embedder"), None),
        ("pattern_c", "image2image", 192, (*ATTENTION, "genre_embedder", "lyric_proj"), None),
        ("pattern_d", "image2image", 64, ("genre_embedder",), None),
        ("layers_structure", "controlnet", 256, (*ATTENTION, "lyric_proj"), (0, 7)),
        ("layers_style", "controlnet", 128, (*ATTENTION, "genre_embedder"), (8, 15)),
    ],
)
def test_the_patterns_and_layer_strategies_are_files(name, mode, r, modules, blocks):
    config = load_config(TrainingConfig, name)
    assert (config.accompaniment.mode, config.lora.r, config.lora.target_modules) == (mode, r, modules)
    assert (config.lora.blocks, config.exp_name, config.accumulate_grad_batches) == (blocks, name, 4)


def test_shipped_files_hold_only_what_differs():
    """Or what is left open otherwise: the mode, which each base has its own default for."""
    defaults = TrainingConfig().model_dump(mode="json")

    def repeated(values, of):
        return [
            name
            for name, value in values.items()
            if name != "mode" and (repeated(value, of[name]) if isinstance(value, dict) else value == of[name])
        ]

    names = [path.stem for path in CONFIGS.glob("*.json") if "lora" in read_json(path)]
    assert {"image2image_base", "controlnet_base", "tiny_image2image", "tiny_controlnet"} < set(names)
    for name in names:
        assert repeated(read_json(CONFIGS / f"{name}.json"), defaults) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json") if "lora" in read_json(path)))
def test_every_shipped_config_names_blocks_that_its_bases_have(name):
    """Whatever it uses them for as it is: a lead sheet needs them in every mode."""
    sizes = (
        (TINY.transformer["num_layers"], TINY_TRANSFORMER["num_hidden_layers"])
        if name.startswith("tiny")
        else (PUBLISHED.transformer["num_layers"], STANDARD["num_hidden_layers"], XL["num_hidden_layers"])
    )
    for blocks in sizes:
        check_layers(load_config(TrainingConfig, name).accompaniment.injection_layers, blocks)

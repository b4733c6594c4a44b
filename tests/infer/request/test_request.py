from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from infer.audio.mixdown import MixdownSettings
from infer.audio.reference import BlendSettings
from infer.request.record import GenerationSettings
from infer.request.request import (
    AdapterSelection,
    GenerationRequest,
    Runtime,
    check_sources,
    find_runtime,
    resolve_settings,
    select_adapters,
)
from infer.request.strength import with_guided_strength
from models.adapters.adapter import AdapterCard, read_card
from models.adapters.conditioning import Conditioning
from models.flow.sampler import SamplerSettings

ADAPTERS = (Path("adapter"),)


@pytest.fixture
def settled(adapter) -> Callable[..., GenerationSettings]:
    """settled(seed=5) is what becomes of these flags with the default adapter."""

    def settle_flags(**flags: Any) -> GenerationSettings:
        request = GenerationRequest(adapters=(adapter,), checkpoint_dir="tiny", **flags)
        return resolve_settings(request, select_adapters(request))

    return settle_flags


SAMPLER: dict[str, Any] = {
    "scheduler": "heun",
    "omega_scale": 2.0,
    "guidance": "cfg",
    "guidance_scale": 3.0,
    "guidance_interval": 0.25,
    "guidance_interval_decay": 0.5,
    "min_guidance_scale": 2.0,
    "vocal_guidance_scale": 4.0,
    "erg": True,
}


def test_a_flag_comes_before_the_card(settled):
    settings = settled(ref_strength=0.4, lora_weights=(0.5,), infer_steps=9, **SAMPLER)
    assert (settings.ref_strength, settings.lora_weights) == (0.4, (0.5,))
    assert settings.sampler == SamplerSettings(steps=9, **SAMPLER)


def test_the_card_comes_before_the_default(settled, adapter, make_adapter):
    settings = settled(seed=5, num_samples=2)
    assert (settings.ref_strength, settings.lora_weights) == (0.6, (0.9,))
    assert settings.sampler == read_card(adapter).sampler
    assert (settings.seed, settings.num_samples) == (5, 2)
    recommended = SamplerSettings(steps=3, shift=2.0, **SAMPLER)
    request = GenerationRequest(adapters=(make_adapter(sampler=recommended),))
    assert resolve_settings(request, select_adapters(request)).sampler == recommended


def test_what_is_false_or_zero_is_no_missing_flag(settled, make_adapter):
    settings = settled(ref_strength=0.0, lora_weights=(0.0,), omega_scale=0.0)
    assert (settings.ref_strength, settings.lora_weights, settings.sampler.omega_scale) == (0.0, (0.0,), 0.0)
    request = GenerationRequest(adapters=(make_adapter(sampler=SamplerSettings(erg=True)),), erg=False)
    assert resolve_settings(request, select_adapters(request)).sampler.erg is False


def test_the_default_has_the_last_word(adapter):
    """What adapter.json leaves out has its default: guidance 15, 60 steps, strength 0.5, weight 0.8."""
    whole = read_card(adapter).model_dump()
    bare = AdapterCard(
        **{name: value for name, value in whole.items() if name not in ("reference_strength", "lora_weight", "sampler")}
    )
    request = GenerationRequest(adapters=ADAPTERS, blend=Path("band.wav"))
    settings = resolve_settings(request, AdapterSelection(ADAPTERS, (bare,), (bare.lora_weight,), bare, "tiny"))
    assert (settings.sampler.guidance_scale, settings.sampler.steps) == (15, 60)
    assert (settings.ref_strength, settings.lora_weights) == (0.5, (0.8,))
    assert settings.blend == BlendSettings(mix_ratio=0.8, preserve_low=False, preserve_high=False)
    assert settings.mixdown == MixdownSettings(vocal_db=0.0, peak_dbfs=-1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ref_strength": 1.5}, "ref_strength: Input should be less than or equal to 1, got 1.5"),
        ({"lora_weights": (3.0,)}, "lora_weights.0: Input should be less than or equal to 2, got 3.0"),
        ({"infer_steps": 0}, "sampler.steps: Input should be greater than or equal to 1, got 0"),
        ({"scheduler": "eule"}, "sampler.scheduler: Input should be 'euler', 'heun' or 'pingpong', got 'eule'"),
        ({"num_samples": 0}, "num_samples: Input should be greater than or equal to 1, got 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"guidance_scale": 0.5}, "sampler.guidance_scale: Input should be greater than or equal to 1, got 0.5"),
        (
            {"guidance": "none", "vocal_guidance_scale": 2.0},
            "sampler: vocal_guidance_scale goes with guidance apg or cfg, not none. Leave it out.",
        ),
        (
            {"settings": ("sampler.vocal_guidance_interval=[1,0.7]",)},
            "sampler: vocal_guidance_interval [1, 0.7] is upside down; write the lower noise level first",
        ),
        (
            {"blend": Path("b.wav"), "mix_ratio": 1.5},
            "blend.mix_ratio: Input should be less than or equal to 1, got 1.5",
        ),
        ({"mixdown_peak_dbfs": 1.0}, "mixdown.peak_dbfs: Input should be less than or equal to 0, got 1.0"),
    ],
)
def test_a_number_out_of_range_names_itself(settled, wrong, message):
    with pytest.raises(UserError) as raised:
        settled(**wrong)
    assert str(raised.value) == f"infer generate: {message}"


def test_set_reaches_what_has_no_flag_and_leaves_the_rest_to_the_adapter(make_adapter):
    card = SamplerSettings(steps=3, guidance="cfg", guidance_scale=4.0)
    request = GenerationRequest(
        adapters=(make_adapter(sampler=card),),
        infer_steps=2,
        settings=("sampler.shift=1.5", "sampler.omega_mean=batch"),
    )
    expected = card.model_copy(update={"steps": 2, "shift": 1.5, "omega_mean": "batch"})
    assert resolve_settings(request, select_adapters(request)).sampler == expected


@pytest.mark.parametrize(
    ("flag", "setting"),
    [
        ({"infer_steps": 2}, "steps=2"),
        ({"scheduler": "heun"}, "scheduler=heun"),
        ({"omega_scale": 0.0}, "omega_scale=0.0"),
        ({"guidance": "cfg"}, "guidance=cfg"),
        ({"guidance_scale": 8.0}, "guidance_scale=8.0"),
        ({"guidance_interval": 1.0}, "guidance_interval=1.0"),
        ({"guidance_interval_decay": 0.5}, "guidance_interval_decay=0.5"),
        ({"min_guidance_scale": 2.0}, "min_guidance_scale=2.0"),
        ({"vocal_guidance_scale": 2.0}, "vocal_guidance_scale=2.0"),
        ({"erg": True}, "erg=true"),
    ],
)
def test_a_flag_of_the_sampler_is_the_setting_of_its_name_and_not_given_beside_it(settled, flag, setting):
    by_name = settled(settings=(f"sampler.{setting}",))
    assert settled(**flag) == by_name
    assert by_name != settled()
    ((field, _),) = flag.items()
    with pytest.raises(UserError) as raised:
        settled(**flag, settings=(f"sampler.{setting}",))
    name = setting.partition("=")[0]
    spelled = f"--{field.replace('_', '-')}"
    assert str(raised.value) == f"--set sampler.{name} and {spelled} are one setting. Give one of them."


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampler.guidanc=cfg", "infer generate: unknown key sampler.guidanc; did you mean guidance?"),
        ("sampler.x=1", f"infer generate: unknown key sampler.x; known: {', '.join(SamplerSettings.model_fields)}."),
        ("seed=3", "infer generate: unknown key seed; known: sampler."),
        ("sampler.steps=0", "infer generate: sampler.steps: Input should be greater than or equal to 1, got 0"),
        ("sampler=cfg", "infer generate: sampler: Input should be an object, got 'cfg'"),
        ("sampler.guidance", "--set sampler.guidance: write it as NAME=VALUE."),
        (
            "sampler.vocal_guidance_scale=2",
            "infer generate: sampler: vocal_guidance_scale goes with guidance apg or cfg, not none. Leave it out.",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(make_adapter, setting, message):
    request = GenerationRequest(adapters=(make_adapter(sampler=SamplerSettings(guidance="none")),), settings=(setting,))
    with pytest.raises(UserError) as raised:
        resolve_settings(request, select_adapters(request))
    assert str(raised.value) == message


def test_how_to_blend_needs_what_to_blend(settled):
    with pytest.raises(UserError) as raised:
        settled(mix_ratio=0.5, preserve_low=True)
    assert str(raised.value) == "--mix-ratio and --preserve-low: of which reference? Name it with --blend FILE."


@pytest.mark.parametrize(
    ("conditioning", "guidable"),
    [
        (Conditioning(), True),
        (Conditioning(source_projection=False), False),
        (Conditioning(source_projection=False, objective="offset"), True),
    ],
)
def test_guidance_over_the_vocal_needs_a_path_that_can_be_left_out(make_adapter, conditioning, guidable):
    request = GenerationRequest(adapters=(make_adapter(conditioning),), vocal_guidance_scale=2.0)
    if guidable:
        assert resolve_settings(request, select_adapters(request)).sampler.vocal_guidance_scale == 2.0
        return
    with pytest.raises(UserError) as raised:
        resolve_settings(request, select_adapters(request))
    assert str(raised.value) == (
        "sampler.vocal_guidance_scale: this adapter takes the vocal from its noise alone, over which nothing can "
        "guide. Leave it out."
    )


EARLY = SamplerSettings(vocal_guidance="cfg", vocal_guidance_scale=2.5, vocal_guidance_interval=(0.7, 1.0))


@pytest.mark.parametrize(
    ("guidance", "kept"), [(None, True), ("apg", True), ("cfg", True), ("cfg_zero_star", False), ("none", False)]
)
def test_a_guidance_that_leaves_no_room_for_the_recommended_one_replaces_it(make_adapter, guidance, kept):
    request = GenerationRequest(adapters=(make_adapter(Conditioning(a_max=0.0), sampler=EARLY),), guidance=guidance)
    sampler = resolve_settings(request, select_adapters(request)).sampler
    assert sampler == EARLY.model_copy(update={"guidance": guidance or "apg"}) if kept else sampler.guidance == guidance
    assert (sampler.vocal_guidance_scale, sampler.vocal_guidance_interval) == (
        (2.5, (0.7, 1.0)) if kept else (None,) * 2
    )


def test_a_strength_that_becomes_a_guidance_keeps_to_the_steps_that_are_guided(make_adapter):
    folder = make_adapter(Conditioning(a_max=0.0), sampler=EARLY, reference_strength=1.0, strength_range=(1.0, 1.0))
    request = GenerationRequest(adapters=(folder,), ref_strength=0.5)
    asked = with_guided_strength(resolve_settings(request, select_adapters(request)), read_card(folder)).sampler
    assert (asked.vocal_guidance_scale, asked.vocal_guidance_interval) == (1.25, (0.7, 1.0))


@pytest.mark.parametrize(("strength", "warns"), [(0.2, True), (0.3, False), (1.0, False), (0.0, False)])
def test_a_strength_that_was_not_trained_is_said_in_one_line(settled, capsys, strength, warns):
    settled(ref_strength=strength)
    expected = (
        "--ref-strength 0.2 is outside the strengths that this adapter was trained with, 0.3 to 1: "
        "it may follow the vocal less well.\n"
    )
    assert capsys.readouterr().err == (expected if warns else "")


@pytest.mark.parametrize(("conditioning", "warns"), [(Conditioning(a_max=0.0), False), (Conditioning(a_max=0.3), True)])
def test_a_strength_that_becomes_a_guidance_is_no_surprise(make_adapter, capsys, conditioning, warns):
    folder = make_adapter(conditioning, reference_strength=1.0, strength_range=(1.0, 1.0))
    request = GenerationRequest(adapters=(folder,), ref_strength=0.5)
    settings = resolve_settings(request, select_adapters(request))
    asked = with_guided_strength(settings, read_card(folder))
    assert (asked == settings) == warns, "what is mixed into the noise cannot be left out of a pass"
    assert (" is outside the strengths " in capsys.readouterr().err) == warns
    if not warns:
        assert (asked.ref_strength, asked.sampler.vocal_guidance_scale) == (1.0, 0.5)


def test_adapters_share_the_weights_that_they_recommend(adapter):
    assert select_adapters(GenerationRequest(adapters=(adapter, adapter))).weights == (0.45, 0.45)
    assert select_adapters(GenerationRequest(adapters=(adapter, adapter), lora_weights=(0.5, 0.3))).weights == (
        0.5,
        0.3,
    )


def test_there_is_a_weight_for_each_adapter_or_none(adapter):
    with pytest.raises(UserError) as raised:
        select_adapters(GenerationRequest(adapters=(adapter,), lora_weights=(0.5, 0.3)))
    assert str(raised.value) == ("2 --lora-weight for 1 --adapter. Give one for each adapter, in their order, or none.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the vocal comes from --vocal FILE or from --shards DIR --key KEY. Give one of the two."),
        (
            {"vocal": Path("v"), "shards": Path("s"), "key": "k"},
            "the vocal comes from --vocal FILE or from --shards DIR --key KEY. Give one of the two.",
        ),
        (
            {"vocal": Path("v"), "key": "k"},
            "--key names a song of --shards; a --vocal file is one song. Leave --key out.",
        ),
        ({"shards": Path("s")}, "--shards s: which song? Name it with --key (prep inspect lists them)."),
    ],
)
def test_the_vocal_comes_from_one_place(given, message):
    with pytest.raises(UserError) as raised:
        check_sources(GenerationRequest(adapters=ADAPTERS, **given))
    assert str(raised.value) == message


def place_of(settings: GenerationSettings, **flags: Any) -> Runtime:
    request = GenerationRequest(**flags)
    return find_runtime(request, settings, select_adapters(request))


def test_a_cached_prompt_needs_no_text_encoder_but_for_erg(settled, adapter, decoder_only):
    request: dict[str, Any] = {"adapters": (adapter,), "shards": Path("s"), "key": "k", "device": "cpu"}
    request |= {"checkpoint_dir": str(decoder_only)}
    runtime = place_of(settled(), **request)
    assert (runtime.base, runtime.device, runtime.dtype) == (decoder_only, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="there is no umt5-base/ in it"):
        place_of(settled(), prompt="piano", **request)
    with pytest.raises(UserError, match="there is no umt5-base/ in it"):
        place_of(settled(erg=True), **request)


def test_a_device_that_is_not_there_is_one_line(settled, adapter):
    with pytest.raises(
        UserError, match=r"^--device cuda:99: cannot be used \(.*\)\. Use auto, cpu, cuda, cuda:1 or mps\.$"
    ):
        place_of(settled(), adapters=(adapter,), vocal=Path("v"), device="cuda:99")


def test_an_adapter_of_another_base_model_is_told_before_anything_is_opened(adapter):
    request = GenerationRequest(adapters=(adapter,), checkpoint_dir="tiny15")
    with pytest.raises(UserError, match=r"adapter: is of ace-step-1, tiny15 is of ace-step-1\.5\. Use the checkpoint"):
        select_adapters(request)

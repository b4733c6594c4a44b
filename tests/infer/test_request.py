from pathlib import Path

import pytest
import torch

from common.errors import UserError
from infer.request import Request, check_sources, find_place, settle
from models.adapter import AdapterCard, read_card

ADAPTER = Path("adapter")


@pytest.fixture
def card(adapter) -> AdapterCard:
    return read_card(adapter)


def test_a_flag_comes_before_the_card(card):
    settings = settle(
        Request(adapter=ADAPTER, ref_strength=0.4, lora_weight=0.5, guidance_scale=3, infer_steps=9), card
    )
    assert (settings.ref_strength, settings.lora_weight) == (0.4, 0.5)
    assert (settings.sampler.guidance_scale, settings.sampler.steps) == (3, 9)


def test_the_card_comes_before_the_plan(card):
    settings = settle(Request(adapter=ADAPTER, seed=5, num_samples=2), card)
    assert (settings.ref_strength, settings.lora_weight) == (0.6, 0.9)
    assert settings.sampler == card.sampler
    assert (settings.seed, settings.num_samples) == (5, 2)


def test_a_zero_that_was_given_is_no_missing_flag(card):
    settings = settle(Request(adapter=ADAPTER, ref_strength=0.0, lora_weight=0.0), card)
    assert (settings.ref_strength, settings.lora_weight) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ref_strength": 1.5}, "infer generate: ref_strength: Input should be less than or equal to 1, got 1.5"),
        ({"infer_steps": 0}, "infer generate: sampler.steps: Input should be greater than or equal to 1, got 0"),
        ({"num_samples": 0}, "infer generate: num_samples: Input should be greater than or equal to 1, got 0"),
        ({"seed": -1}, "infer generate: seed: Input should be greater than or equal to 0, got -1"),
        (
            {"guidance_scale": 0.5},
            "infer generate: sampler.guidance_scale: Input should be greater than or equal to 1, got 0.5",
        ),
    ],
)
def test_a_number_out_of_range_names_itself(card, wrong, message):
    with pytest.raises(UserError) as raised:
        settle(Request(adapter=ADAPTER, **wrong), card)
    assert str(raised.value) == message


@pytest.mark.parametrize(("strength", "warns"), [(0.2, True), (0.3, False), (1.0, False), (0.0, False)])
def test_a_strength_that_was_not_trained_is_said_in_one_line(card, capsys, strength, warns):
    settle(Request(adapter=ADAPTER, ref_strength=strength), card)
    expected = (
        "--ref-strength 0.2 is outside the strengths that this adapter was trained with, 0.3 to 1: "
        "it may follow the vocal less well.\n"
    )
    assert capsys.readouterr().err == (expected if warns else "")


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
        check_sources(Request(adapter=ADAPTER, **given))
    assert str(raised.value) == message


def test_a_cached_prompt_needs_no_text_encoder(decoder_only):
    place = find_place(
        Request(adapter=ADAPTER, shards=Path("s"), key="k", checkpoint_dir=str(decoder_only), device="cpu")
    )
    assert (place.base, place.device, place.dtype) == (decoder_only, torch.device("cpu"), torch.float32)
    with pytest.raises(UserError, match="there is no umt5-base/ in it"):
        find_place(
            Request(adapter=ADAPTER, shards=Path("s"), key="k", prompt="piano", checkpoint_dir=str(decoder_only))
        )


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"^--device cuda:99: cannot be used \(.*\)\. Use cpu or cuda\.$"):
        find_place(Request(adapter=ADAPTER, vocal=Path("v"), device="cuda:99"))


def test_the_plan_has_the_last_word(adapter):
    """What adapter.json leaves out is the owner's plan: guidance 15, 60 steps, strength 0.5, weight 0.8."""
    whole = read_card(adapter).model_dump()
    bare = {
        name: value for name, value in whole.items() if name not in ("reference_strength", "lora_weight", "sampler")
    }
    settings = settle(Request(adapter=ADAPTER), AdapterCard(**bare))
    assert (settings.sampler.guidance_scale, settings.sampler.steps) == (15, 60)
    assert (settings.ref_strength, settings.lora_weight) == (0.5, 0.8)

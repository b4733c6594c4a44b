"""Several adapters: each by its weight, none by its place, and itself when combined with itself."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.latents import LatentStatistics
from models.acestep1.transformer.transformer import Conditions
from models.adapters.adapter import AdapterCard, LoraCard, save_adapter
from models.adapters.combined import CombinedAdapters, combine_cards, open_adapters, shares_of
from models.adapters.conditioning import Conditioning, ControlShape
from models.adapters.lora import attach_lora, trained_parameters

BASE = "a" * 64
IMAGE2IMAGE = Conditioning(a_max=0.5)
ZERO = ControlShape(depth=1, dim=128, injection_layers=(0, 2))
CONTROLNET = Conditioning(mode="controlnet", source_projection=False, control=ZERO)
CROSS_NORM = CONTROLNET.model_copy(
    update={"control": ControlShape(depth=1, dim=128, injection_layers=(0, 1), control_injection="cross_norm")}
)
ALL = pytest.mark.parametrize("conditioning", [IMAGE2IMAGE, CONTROLNET, CROSS_NORM], ids=["i2i", "zero", "cross_norm"])


def card_of(conditioning: Conditioning, **changes: Any) -> AdapterCard:
    values: dict[str, Any] = {
        "conditioning": conditioning,
        "output_type": "accompaniment",
        "strength_range": (0.3, 1.0),
        "lora": LoraCard(r=2, lora_alpha=2, use_rslora=False, use_dora=False, target_modules=("to_q",), blocks=None),
        "statistics": statistics(0.5, 2.0),
        "vocal_lufs": -20.0,
        "base_fingerprint": BASE,
        "shards_fingerprint": "b" * 64,
        "epoch": 1,
        "step": 20,
    }
    return AdapterCard(**values | changes)


def statistics(silence: float, std: float) -> LatentStatistics:
    rows = tuple(tuple(silence + channel / 8 - row / 16 for row in range(16)) for channel in range(8))
    return LatentStatistics(silence=rows, mean=(0.1,) * 8, std=tuple(std + channel / 8 for channel in range(8)))


@pytest.fixture
def adapter(golden_transformer, tmp_path):
    """adapter("one", conditioning, seed=1) is an adapter folder whose every weight says something."""

    def build(name: str, conditioning: Conditioning, *, seed: int, **changes: Any) -> Path:
        transformer = golden_transformer("transformer")
        attach_lora(transformer, rank=2, alpha=2, target_modules=("to_q", "to_v"), use_rslora=False)
        conditioner = conditioning.make_conditioner(transformer)
        generator = torch.Generator().manual_seed(seed)
        for parameter in [
            *trained_parameters(transformer).values(),
            *(conditioner.parameters() if conditioner else []),
        ]:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        save_adapter(tmp_path / name, transformer, conditioner, card_of(conditioning, **changes))
        return tmp_path / name

    return build


@pytest.fixture
def play(golden, golden_transformer):
    """play(folders, weights, strength) is the network's answer under a vocal."""

    def play_blend(folders, weights, strength: float = 0.8) -> Tensor:
        transformer, given = golden_transformer("transformer"), golden("transformer").inputs
        combined = open_adapters(folders, transformer, weights=weights, base_fingerprint=BASE)
        words = given["text"], given["text_mask"], given["speaker"], given["lyric_ids"], given["lyric_mask"]
        return answer(combined, transformer, given, transformer.encode(*words), strength)

    return play_blend


@torch.no_grad()
def answer(combined: CombinedAdapters, transformer, given, conditions: Conditions, strength: float) -> Tensor:
    vocal = torch.linspace(-1, 1, 2 * 8 * 16 * 37).reshape(2, 8, 16, 37)
    source = combined.card.conditioning.vocal_source(
        vocal, torch.ones(2, 37), torch.full((2,), strength), combined.card.statistics
    )
    state = combined.objective.make_x1(given["hidden_states"], source)
    injections = combined.conditioner.injections(source, given["timestep"]) if combined.conditioner else {}
    return transformer.decode(state, given["timestep"], conditions, injections=injections).sample


@ALL
def test_an_adapter_blended_with_itself_is_itself(adapter, play, conditioning):
    one = adapter("one", conditioning, seed=1)
    torch.testing.assert_close(play([one, one], [0.5, 0.3]), play([one], [0.8]), atol=1e-4, rtol=1e-4)


@ALL
def test_no_adapter_is_blended_by_its_place(adapter, play, conditioning):
    one = adapter("one", conditioning, seed=1)
    other = adapter("other", conditioning, seed=2, statistics=statistics(0.2, 1.0))
    found = play([one, other], [0.5, 0.3])
    torch.testing.assert_close(play([other, one], [0.3, 0.5]), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(play([one, other], [0.8, 0.0]), play([one], [0.8]), atol=1e-4, rtol=1e-4)
    for folder in (one, other):
        assert (play([folder], [0.8]) - found).abs().max() > 1e-2


@ALL
def test_without_weight_and_strength_it_is_the_base(adapter, play, golden_transformer, golden, conditioning):
    folders = [adapter(name, conditioning, seed=seed) for seed, name in enumerate(("one", "other"))]
    transformer, given = golden_transformer("transformer"), golden("transformer").inputs
    words = given["text"], given["text_mask"], given["speaker"], given["lyric_ids"], given["lyric_mask"]
    with torch.no_grad():
        plain = transformer.decode(given["hidden_states"], given["timestep"], transformer.encode(*words)).sample
    assert torch.equal(play(folders, [0.0, 0.0], strength=0.0), plain)


def test_each_conditioner_takes_the_vocal_as_it_was_trained_to_and_adds_its_share(adapter, golden_transformer):
    """At block 0, where a projection adds P(r * v)."""
    kinds = {"one": statistics(0.5, 2.0), "other": statistics(0.2, 1.0)}
    folders = [adapter(name, IMAGE2IMAGE, seed=n, statistics=kinds[name]) for n, name in enumerate(kinds)]
    vocal, hidden = torch.randn(1, 8, 16, 5), torch.randn(1, 5, golden_transformer("transformer").inner_width)

    def added(combined: CombinedAdapters, strength: float) -> Tensor:
        source = combined.card.conditioning.vocal_source(
            vocal, torch.ones(1, 5), torch.tensor([strength]), combined.card.statistics
        )
        assert combined.conditioner is not None
        return combined.conditioner.injections(source, torch.tensor([500.0]))[0](hidden) - hidden

    def opened(folders, weights) -> CombinedAdapters:
        return open_adapters(folders, golden_transformer("transformer"), weights=weights, base_fingerprint=BASE)

    alone = [added(opened([folder], [1.0]), 0.8) for folder in folders]
    torch.testing.assert_close(added(opened(folders, [0.3, 0.1]), 0.8), 0.75 * alone[0] + 0.25 * alone[1])


def test_a_combination_takes_the_shared_mean_of_what_each_takes():
    cards = [
        card_of(IMAGE2IMAGE, statistics=statistics(0.5, 2.0)),
        card_of(IMAGE2IMAGE, statistics=statistics(0.2, 1.0)),
    ]
    card = combine_cards([Path("one"), Path("other")], cards, [0.6, 0.2])
    vocal = torch.randn(1, 8, 16, 5)
    vocals = [
        IMAGE2IMAGE.vocal_source(vocal, torch.ones(1, 5), torch.ones(1), kind.statistics).vocal
        for kind in (*cards, card)
    ]
    torch.testing.assert_close(vocals[2], 0.75 * vocals[0] + 0.25 * vocals[1])


def test_what_is_recommended_suits_all():
    cards = [card_of(IMAGE2IMAGE), card_of(IMAGE2IMAGE, vocal_lufs=-26.0, strength_range=(0.1, 0.9))]
    card = combine_cards([Path("one"), Path("other")], cards, [0.5, 0.5])
    assert (card.vocal_lufs, card.strength_range) == (-23.0, (0.3, 0.9))
    assert combine_cards([Path("one")], cards[:1], [0.5]) is cards[0]


def test_shares_are_parts_of_the_sum():
    assert shares_of([0.6, 0.2]) == pytest.approx([0.75, 0.25])
    assert shares_of([0.0, 0.0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"base_fingerprint": "c" * 64}, "its base is cccccccc, not aaaaaaaa"),
        ({"conditioning": CONTROLNET}, "its mode is controlnet, not image2image"),
        (
            {"conditioning": IMAGE2IMAGE.model_copy(update={"a_max": 0.3})},
            "its path from noise is bridge_vp with a_max 0.3, not bridge_vp with a_max 0.5",
        ),
        (
            {"conditioning": IMAGE2IMAGE.model_copy(update={"objective": "offset"})},
            "its path from noise is offset with weight 1-s, not bridge_vp with a_max 0.5",
        ),
        ({"conditioning": IMAGE2IMAGE.model_copy(update={"activity_gate": False})}, "its activity gate is off, not on"),
        ({"output_type": "mix"}, "its result is mix, not accompaniment"),
    ],
)
def test_adapters_that_do_not_go_together_say_why(changes, problem):
    cards = [card_of(IMAGE2IMAGE), card_of(**{"conditioning": IMAGE2IMAGE} | changes)]
    message = f"other: cannot be combined with one: {problem}. Combine adapters that were trained alike."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        combine_cards([Path("one"), Path("other")], cards, [0.5, 0.5])

"""Fixtures of the networks' tests."""

from collections.abc import Callable

import pytest

from models.transformer import ACEStepTransformer2DModel


@pytest.fixture
def golden_transformer(golden) -> Callable[[str], ACEStepTransformer2DModel]:
    """golden_transformer("transformer") is the small transformer of that golden, in eval mode, without gradients."""

    def build(name: str) -> ACEStepTransformer2DModel:
        notes, weights = golden(name).notes, golden(name).weights
        lyrics = notes["lyric_encoder_args"]
        transformer = ACEStepTransformer2DModel(
            **notes["config"],
            lyric_encoder_heads=lyrics["attention_heads"],
            lyric_encoder_ff=lyrics["linear_units"],
            lyric_encoder_layers=lyrics["num_blocks"],
        )
        transformer.load_state_dict(weights)
        return transformer.eval().requires_grad_(False)

    return build

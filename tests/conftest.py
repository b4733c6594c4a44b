"""Fixtures that every room's tests share."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from models.transformer import ACEStepTransformer2DModel

# Tests start many processes, each of which would compile torch and diffusers anew where bytecode may not be written.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Two run side by side, and threads that wait for each other spin: one thread each is several times faster.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

GOLDENS = Path(__file__).resolve().parent / "goldens"
SHARED_AUDIO = Path(__file__).resolve().parents[2] / "shared" / "audio"


@dataclass(frozen=True)
class Golden:
    """Numbers that upstream computed: its weights, what went in, what must come out; `notes` is the JSON beside it."""

    notes: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


@cache
def read_golden(name: str) -> Golden:
    notes = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    tensors = load_file(GOLDENS / f"{name}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    return Golden(notes, part("w."), part("in."), part("out."))


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """golden("transformer") reads tests/goldens/transformer.{json,safetensors}; treat its tensors as read-only."""
    return read_golden


@pytest.fixture
def golden_transformer(golden) -> Callable[[str], "ACEStepTransformer2DModel"]:
    """golden_transformer("transformer") is the small transformer of that golden, in eval mode, without gradients."""
    from models.transformer import ACEStepTransformer2DModel

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


@pytest.fixture
def goldens_folder() -> Path:
    return GOLDENS


@pytest.fixture
def shared_audio() -> Path:
    """Real songs that lie beside the checkout of a developer; tests that want them skip elsewhere."""
    if not SHARED_AUDIO.is_dir():
        pytest.skip("no ../shared/audio beside this checkout")
    return SHARED_AUDIO


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)

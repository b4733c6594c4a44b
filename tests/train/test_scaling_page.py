"""docs/scaling.md: what it calls computed is what the code computes."""

from pathlib import Path

import pytest
import torch

from common.bases import ACE_STEP_1
from common.config import load_config
from models.acestep1.sizes import PUBLISHED
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.loading.int8 import to_int8
from models.loading.weights import without_notes
from prep.building.augmented import bytes_per_second
from prep.config import PrepConfig
from shards.writer import SHARD_SAMPLES
from train.config import TrainingConfig
from train.data.plan import WINDOW_SHARDS
from train.loop.memory import BLOCK_BYTES, OPTIMIZER_BYTES
from train.loop.module import conditioning_of

LATENTS = ACE_STEP_1.latents

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
CONFIGS = [
    "image2image_base", "controlnet_base", "layers_structure", "layers_style",
    "pattern_a", "pattern_b", "pattern_c", "pattern_d", "singer", "studio",
]  # fmt: skip
GIB = 2**30


def cells(start: str) -> list[str]:
    """Of the table row that starts with `start`, behind that cell."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def published() -> ACEStepTransformer2DModel:
    """The transformer without its numbers."""
    with torch.device("meta"):
        return ACEStepTransformer2DModel(**without_notes(PUBLISHED.transformer))


@pytest.fixture(scope="module")
def transformer() -> ACEStepTransformer2DModel:
    """Read only."""
    return published()


def bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def lora_numbers(transformer: ACEStepTransformer2DModel, config: TrainingConfig) -> int:
    low, high = config.lora.blocks or (0, len(transformer.transformer_blocks) - 1)
    total = 0
    for name, layer in transformer.named_modules():
        inside = not name.startswith("transformer_blocks.") or low <= int(name.split(".")[1]) <= high
        if inside and any(name == end or name.endswith(f".{end}") for end in config.lora.target_modules):
            assert isinstance(layer, torch.nn.Linear)
            total += config.lora.r * (layer.in_features + layer.out_features)
    return total


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_trained(name, transformer):
    config = load_config(TrainingConfig, name)
    lora = lora_numbers(transformer, config)
    with torch.device("meta"):
        conditioner = conditioning_of(config).make_conditioner(transformer)
    assert conditioner is not None
    own = sum(parameter.numel() for parameter in conditioner.parameters())
    trained = lora + own
    memory = trained * (4 + 4 + OPTIMIZER_BYTES[config.optimizer]) / GIB
    assert cells(f"`{name}`") == [
        str(config.lora.r), f"{lora:,}".replace(",", " "), f"{own:,}".replace(",", " "),
        f"{4 * trained / 1e6:.0f}", f"{memory:.2f}",
    ]  # fmt: skip


def test_the_frozen_base():
    whole = published()
    half = published().to(torch.bfloat16)
    assert cells("`float32`") == [f"{bytes_of(whole) / 1e9:.2f}", f"{bytes_of(whole) / GIB:.2f}"]
    assert cells("`bfloat16`") == [f"{bytes_of(half) / 1e9:.2f}", f"{bytes_of(half) / GIB:.2f}"]
    to_int8(half)
    assert cells("`int8`") == [f"{bytes_of(half) / 1e9:.2f}", f"{bytes_of(half) / GIB:.2f}"]


@pytest.mark.parametrize("seconds", [10, 60, 240])
def test_what_the_blocks_keep(seconds, transformer):
    frames, kept = round(seconds * LATENTS.frames_per_second), BLOCK_BYTES[torch.bfloat16]
    positions, blocks = frames * transformer.inner_width, len(transformer.transformer_blocks)
    sizes = (positions * (2 * blocks + kept), positions * blocks * kept)
    assert cells(f"{seconds} s") == [str(frames), *(f"{size / GIB:.2f}" for size in sizes)]


@pytest.mark.parametrize("name", ["image2image_base", "controlnet_base"])
def test_what_a_run_leaves(name):
    config = load_config(TrainingConfig, name)
    adapters = config.max_steps // config.checkpoint_every_n_steps
    assert config.val_every_n_steps == config.checkpoint_every_n_steps  # so that the best are among them
    gigabytes = adapters * int(cells(f"`{name}`")[3]) / 1e3
    assert f"{config.max_steps:,} steps leave {adapters}:".replace(",", " ") in PAGE
    assert f"{gigabytes:.0f} GB for `{name}`" in PAGE.replace("\n", " ")


def test_what_is_streamed():
    frame_bytes = 2 * (2 * 8 * 16 + 1)  # vocal, target, activity
    feature_bytes = 2 * (75 * 1024 + 50 * 768)
    second_bytes = frame_bytes * LATENTS.frames_per_second + feature_bytes
    assert f"(computed: {feature_bytes:,} bytes a second more)".replace(",", " ") in PAGE
    by_default, few = (2 * WINDOW_SHARDS * segments * 240 * second_bytes / 1e9 for segments in (SHARD_SAMPLES, 8))
    assert f"make it {by_default:.0f} GB" in PAGE
    assert f"`--set shard_samples=8` makes it {few:.1f} GB" in PAGE


def test_disk():
    def an_hour(*settings: str) -> float:
        return 3600 * bytes_per_second(load_config(PrepConfig, "prep_base", settings), ACE_STEP_1) / 1e6

    one = ('targets=["inst"]',)
    assert cells("vocal, inst, mix and activity")[0] == f"{an_hour():.1f} MB"
    assert cells("with `--targets inst`")[0] == f"{an_hour(*one):.1f} MB"
    for title, name in (("MERT", "mert"), ("mHuBERT", "mhubert")):
        features = an_hour(*one, f'ssl=["{name}"]') - an_hour(*one)
        assert cells(f"{title} features")[0] == f"{features:.0f} MB"

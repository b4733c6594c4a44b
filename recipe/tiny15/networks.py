"""models/tiny15/ with random weights, in the original layout; both variants have the same."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.bases import ACE_STEP_15, CONFIG_FILE, TOKENIZER_FILE
from common.config import SettingsDict
from models.acestep15.codec import OobleckCodec, OobleckConfig
from models.acestep15.names import original_name
from models.acestep15.sizes import TINY_TEXT_ENCODER, TINY_TRANSFORMER, TINY_VAE, network_settings
from models.acestep15.text import build_text_network
from models.loading.acestep15 import CODEC, SILENCE, SILENCE_FILE, build_network
from models.loading.weights import network_config, shapes_of
from recipe.random_weights import random_weights
from recipe.tiny15.bundle import VARIANTS
from recipe.tiny15.tokenizer import make_prompt_tokenizer

CARD_FILE = "CARD.md"
CARD = """# The tiny bundle of ACE-Step 1.5

Random weights: for tests, not music. Nothing here was trained; `python -m recipe.tiny15 random` draws all weights from
one seed. What comes out depends on all that it should depend on (the words, the source, the noise), and is noise.

The original layout: a folder for the variants base and turbo, whose weights are the same, the VAE and the text encoder.
diffusers' own classes open all of it but the VAE's encoder, which begins at 2 channels and ends at 128: diffusers' has
one setting for both. Latents of music at usual levels have a deviation near 1, those of silence are constant, and
numbers are stored in 8 bits.
"""
SEED = 15
STORED = torch.float8_e4m3fn
"""Random numbers need no precision."""
SILENCE_RANGE = 0.5
"""Latents of silence are the bias of the encoder's last layer, drawn from this far to either side of zero."""
GAINS = {"encoder.conv2.weight_g": 1 / 4, "decoder.conv2.weight_g": 1 / 128}
"""By which latents of music have a deviation near 1, and sound made of such latents is near -20 dBFS."""


def write_bundle(folder: Path) -> None:
    """All parts. The same bytes each time."""
    write_variants(folder, write_codec(folder))
    write_text_encoder(folder)
    (folder / CARD_FILE).write_text(CARD, encoding="utf-8", newline="\n")


def write_variants(folder: Path, silence: Tensor) -> None:
    """The transformer with its condition encoder, once per variant; silence [C] is that of the codec."""
    network = build_network(network_settings(TINY_TRANSFORMER, "tiny"), TINY_TRANSFORMER, folder)
    shapes = shapes_of(network)
    held = shapes.pop(SILENCE)
    weights = {original_name(name): tensor for name, tensor in _drawn(shapes).items()}
    for name, told in VARIANTS.items():
        _write_part(folder / name, TINY_TRANSFORMER | told, weights, "model.safetensors")
        repeated = silence[None, :, None].repeat(1, 1, held[1]).to(STORED)
        torch.save(repeated, folder / name / SILENCE_FILE)


def write_codec(folder: Path) -> Tensor:
    """The codec; gives its latents of silence [C]."""
    with torch.device("meta"):
        codec = OobleckCodec(network_config(OobleckConfig, TINY_VAE, "tiny"), encoder=True, decoder=True)
    weights = _drawn(shapes_of(codec))
    generator = torch.Generator().manual_seed(SEED)
    bias = (2 * torch.rand(weights["encoder.conv2.bias"].shape, generator=generator) - 1) * SILENCE_RANGE
    weights["encoder.conv2.bias"] = bias.to(STORED)
    _write_part(folder / CODEC, TINY_VAE, weights, ACE_STEP_15.weights_file(ACE_STEP_15.parts.codec))
    return weights["encoder.conv2.bias"][: ACE_STEP_15.latents.channels].float()


def write_text_encoder(folder: Path) -> None:
    """Qwen3 with our tokenizer."""
    part = ACE_STEP_15.parts.text_encoder
    network = build_text_network(TINY_TEXT_ENCODER, folder)
    _write_part(folder / part, TINY_TEXT_ENCODER, _drawn(shapes_of(network)), ACE_STEP_15.weights_file(part))
    tokenizer = make_prompt_tokenizer(TINY_TEXT_ENCODER["vocab_size"]).to_str(pretty=True)
    (folder / part / TOKENIZER_FILE).write_text(tokenizer + "\n", encoding="utf-8", newline="\n")


def _drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: tensor.to(STORED) for name, tensor in random_weights(shapes, seed=SEED, gains=GAINS).items()}


def _write_part(folder: Path, config: SettingsDict, weights: Mapping[str, Tensor], file: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    save_file(dict(weights), folder / file, {"format": "pt"})

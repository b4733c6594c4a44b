"""The trained parts of models/tiny15/ in the original layout: both variants have the same weights.

C latent channels (64), T latent frames.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from common.bases import ACE_STEP_15, TOKENIZER_FILE
from common.config import SettingsDict
from models.acestep15.codec import OobleckCodec, context_of
from models.acestep15.names import original_name
from models.acestep15.network import AceStep15Network
from models.acestep15.sizes import TINY_TEXT_ENCODER, TINY_TRANSFORMER, TINY_VAE
from models.acestep15.text import QwenTextEncoder
from models.loading.acestep15 import CODEC, ORIGINAL_STEM, SILENCE, SILENCE_FILE, open_codec
from recipe.bundle import STORED, stored, write_part

PARTS = ACE_STEP_15.parts
VARIANTS: Mapping[str, SettingsDict] = {
    "acestep-v15-base": {"is_turbo": False, "model_version": "base"},
    "acestep-v15-turbo": {"is_turbo": True, "model_version": "turbo"},
}
"""Folders, and the settings in which they differ."""


def write_vae(folder: Path, vae: OobleckCodec) -> None:
    write_part(folder, CODEC, TINY_VAE, stored(vae.state_dict()), ACE_STEP_15.weights_file(PARTS.codec))


@torch.no_grad()
def silence_of(folder: Path) -> Tensor:
    """The bundle's own latents of silence far from its ends, repeated as long as the longest clip. [1, T, C]"""
    codec = open_codec(folder, encoder=True, decoder=False)
    assert codec.encoder is not None
    aside = context_of(codec.encoder)
    latents = codec.encode(torch.zeros(2, (2 * aside + 1) * ACE_STEP_15.latents.frame_samples))
    return latents[..., aside].mT.to(STORED).float().expand(1, ACE_STEP_15.longest_frames, -1)


def write_variants(folder: Path, network: AceStep15Network) -> None:
    """The transformer with its condition encoder, once per variant."""
    weights = stored(network.state_dict())
    held = weights.pop(SILENCE)
    silence = held[:, :1].clone().expand(held.shape).mT  # of which one frame is stored
    named = {original_name(name): tensor for name, tensor in weights.items()}
    for variant, told in VARIANTS.items():
        write_part(folder, variant, TINY_TRANSFORMER | told, named, f"{ORIGINAL_STEM}.safetensors")
        torch.save(silence, folder / variant / SILENCE_FILE)


def write_text_encoder(folder: Path, text: QwenTextEncoder) -> None:
    """Qwen3 with our tokenizer."""
    part = PARTS.text_encoder
    weights = stored(text.network.state_dict())
    write_part(folder, part, TINY_TEXT_ENCODER, weights, ACE_STEP_15.weights_file(part))
    tokenizer = Tokenizer.from_str(text.tokenizer.to_str())
    tokenizer.no_truncation()  # which stays from what was embedded last
    written = tokenizer.to_str(pretty=True) + "\n"
    (folder / part / TOKENIZER_FILE).write_text(written, encoding="utf-8", newline="\n")

"""Trained networks as a bundle: the published layout, stored in half precision."""

from collections.abc import Mapping
from pathlib import Path

import torch
from demucs.htdemucs import HTDemucs
from torch import Tensor

from models.checkpoint import TOKENIZER_FILE
from models.codec import Codec
from models.mel import mel_tables
from models.text import TIED
from models.vocoder import Vocoder, stored_shapes
from recipe.bundle import write_part, write_separator_files
from recipe.flow import FlowNetwork
from recipe.sizes import BUNDLE, SEPARATOR

STORED = torch.float16
"""Finer than bfloat16, and wide enough for weights."""


def write_codec(folder: Path, codec: Codec) -> None:
    write_part(folder, "music_dcae_f8c8", BUNDLE.codec, stored(codec.state_dict()))


def write_vocoder(folder: Path, vocoder: Vocoder) -> None:
    write_part(folder, "music_vocoder", BUNDLE.vocoder, stored(split(vocoder)))


def write_separator(folder: Path, separator: HTDemucs) -> None:
    write_separator_files(folder, SEPARATOR, stored(separator.state_dict()))


def write_flow(folder: Path, flow: FlowNetwork) -> None:
    """The transformer, and the text encoder with its tokenizer."""
    write_part(folder, "ace_step_transformer", BUNDLE.transformer, stored(flow.transformer.state_dict()))
    text = {name: tensor for name, tensor in flow.text.network.state_dict().items() if name != TIED}
    write_part(folder, "umt5-base", BUNDLE.text_encoder, stored(text))
    tokenizer = flow.text.tokenizer.to_str(pretty=True)
    (folder / "umt5-base" / TOKENIZER_FILE).write_text(tokenizer + "\n", encoding="utf-8")


def stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().to(STORED) for name, tensor in weights.items()}


def split(vocoder: Vocoder) -> dict[str, Tensor]:
    """A vocoder's weights as its file holds them, weight norm split off: what models.vocoder.fold undoes."""
    weights, tables = vocoder.state_dict(), mel_tables(torch.device("cpu"))
    parts = {"mel_transform.spectrogram.window": tables.window, "mel_transform.mel_scale.fb": tables.filters}
    for name in stored_shapes(vocoder):
        plain = name.removesuffix("_v").removesuffix("_g")
        if name.endswith("_v"):
            parts[name] = weights[plain]
        elif name.endswith("_g"):
            parts[name] = weights[plain].flatten(1).norm(dim=1)[:, None, None]
        elif name not in parts:
            parts[name] = weights[name]
    return parts

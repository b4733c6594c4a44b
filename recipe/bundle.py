"""Trained networks as a bundle: the published layout, stored in half precision, and a separator (demucs/)."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from demucs.htdemucs import HTDemucs
from safetensors.torch import save_file
from torch import Tensor

from common.bases import ACE_STEP_1, CONFIG_FILE, TOKENIZER_FILE
from common.config import SettingsDict
from common.safetensors_header import sort_metadata
from models.acestep1.codec.codec import Codec
from models.acestep1.codec.mel import mel_tables
from models.acestep1.codec.vocoder import Vocoder
from models.acestep1.sizes import TINY, TINY_SEPARATOR
from models.acestep1.text.encoder import TIED
from recipe.flow import TextConditionedFlow

PARTS = ACE_STEP_1.parts

SEPARATOR = "tiny"
"""Names the separator's files."""
STORED = torch.float16
"""Finer than bfloat16, and wide enough for weights."""


def write_codec(folder: Path, codec: Codec) -> None:
    write_part(folder, PARTS.codec, TINY.codec, stored(codec.state_dict()))


def write_vocoder(folder: Path, vocoder: Vocoder) -> None:
    """With the tables of its mel, as the published file."""
    tables = mel_tables(torch.device("cpu"))
    named = {"mel_transform.spectrogram.window": tables.window, "mel_transform.mel_scale.fb": tables.filters}
    write_part(folder, PARTS.vocoder, TINY.vocoder, stored(vocoder.state_dict() | named))


def write_separator(folder: Path, separator: HTDemucs) -> None:
    """As demucs.hf reads it: a bag of one, its class and arguments in the file's metadata."""
    room = folder / "demucs"
    room.mkdir(parents=True, exist_ok=True)
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(TINY_SEPARATOR)}
    save_file(stored(separator.state_dict()), room / f"{SEPARATOR}.safetensors", metadata)
    sort_metadata(room / f"{SEPARATOR}.safetensors")
    (room / f"{SEPARATOR}.yaml").write_text(f"models: [{SEPARATOR}]\n", encoding="utf-8", newline="\n")


def write_flow(folder: Path, flow: TextConditionedFlow) -> None:
    """The transformer, and the text encoder with its tokenizer."""
    write_part(folder, PARTS.transformer, TINY.transformer, stored(flow.transformer.state_dict()))
    text = {name: tensor for name, tensor in flow.text.network.state_dict().items() if name != TIED}
    write_part(folder, PARTS.text_encoder, TINY.text_encoder, stored(text))
    tokenizer = flow.text.tokenizer.to_str(pretty=True)
    (folder / PARTS.text_encoder / TOKENIZER_FILE).write_text(tokenizer + "\n", encoding="utf-8", newline="\n")


def stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().to(STORED) for name, tensor in weights.items()}


def write_part(
    folder: Path, part: str, config: SettingsDict, weights: Mapping[str, Tensor], file: str | None = None
) -> None:
    """A part's config.json and weights, in the dtype that they have; `file` is ACE-Step v1's where none is named."""
    room = folder / part
    room.mkdir(parents=True, exist_ok=True)
    (room / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    save_file(dict(weights), room / (file or ACE_STEP_1.weights_file(part)), {"format": "pt"})

"""Writes the tiny bundle: the published layout, random seeded weights, and a separator (demucs/)."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from demucs.htdemucs import HTDemucs
from safetensors.torch import save
from torch import Tensor

from models.checkpoint import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILES, Part, network_config, shapes_of, without_notes
from models.codec import Codec, CodecConfig
from models.mel import mel_tables
from models.sizes import TINY, TINY_SEPARATOR, SettingsDict
from models.text import build_network
from models.text import stored_shapes as stored_text_shapes
from models.transformer import ACEStepTransformer2DModel
from models.vocoder import Vocoder, VocoderConfig
from models.vocoder import stored_shapes as stored_vocoder_shapes
from recipe.random_weights import random_weights
from recipe.tokenizer import make_tokenizer

SEED = 20250607
SEPARATOR = "tiny"
CODEC_GAINS = {"decoder.conv_out.weight": 0.6}  # keeps the decoded mel within -11 ... 3
VOCODER_GAINS = {"head.conv_post.weight_g": 16.0}  # waves of RMS 0.1
SEPARATOR_GAINS = {"decoder.3.conv_tr.weight": 2.0, "tdecoder.3.conv_tr.weight": 2.0}  # stems half as loud as the mix


def write_bundle(folder: Path) -> None:
    """Write every part of the bundle below `folder`: the same bytes on every machine."""
    for write in (write_transformer, write_codec, write_vocoder, write_text_encoder, write_separator):
        write(folder)


def write_transformer(folder: Path) -> None:
    with torch.device("meta"):
        network = ACEStepTransformer2DModel(**without_notes(TINY.transformer))
    write_part(
        folder,
        "ace_step_transformer",
        TINY.transformer,
        _bfloat16(random_weights(shapes_of(network), seed=SEED, gains={})),
    )


def write_codec(folder: Path) -> None:
    with torch.device("meta"):
        codec = Codec(network_config(CodecConfig, TINY.codec, "tiny codec"), encoder=True, decoder=True)
    weights = random_weights(shapes_of(codec), seed=SEED, gains=CODEC_GAINS)
    write_part(folder, "music_dcae_f8c8", TINY.codec, _bfloat16(weights))


def write_vocoder(folder: Path) -> None:
    with torch.device("meta"):
        vocoder = Vocoder(network_config(VocoderConfig, TINY.vocoder, "tiny vocoder"))
    weights = random_weights(stored_vocoder_shapes(vocoder), seed=SEED, gains=VOCODER_GAINS)
    tables = mel_tables(torch.device("cpu"))
    weights["mel_transform.spectrogram.window"] = tables.window
    weights["mel_transform.mel_scale.fb"] = tables.filters
    write_part(folder, "music_vocoder", TINY.vocoder, _bfloat16(weights))


def write_text_encoder(folder: Path) -> None:
    part: Part = "umt5-base"
    shapes = stored_text_shapes(build_network(TINY.text_encoder, folder / part / CONFIG_FILE))
    unscaled = TINY.text_encoder["d_kv"] ** -0.5  # UMT5 does not divide by the root of the head width
    gains = {name: unscaled for name in shapes if name.endswith("SelfAttention.q.weight")}
    write_part(folder, part, TINY.text_encoder, _bfloat16(random_weights(shapes, seed=SEED, gains=gains)))
    tokenizer = make_tokenizer(TINY.text_encoder["vocab_size"])
    (folder / part / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def write_separator(folder: Path) -> None:
    """An HTDemucs as demucs.hf reads it: a bag of one, its class and arguments in the file's metadata."""
    weights = random_weights(shapes_of(HTDemucs(**TINY_SEPARATOR)), seed=SEED, gains=SEPARATOR_GAINS)
    write_separator_files(folder, TINY_SEPARATOR, _bfloat16(weights))


def write_separator_files(folder: Path, settings: SettingsDict, weights: Mapping[str, Tensor]) -> None:
    """An HTDemucs of these arguments as demucs.hf reads it."""
    room = folder / "demucs"
    room.mkdir(parents=True, exist_ok=True)
    metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(settings)}
    _save(weights, room / f"{SEPARATOR}.safetensors", metadata)
    (room / f"{SEPARATOR}.yaml").write_text(f"models: [{SEPARATOR}]\n", encoding="utf-8")


def write_part(folder: Path, part: Part, config: SettingsDict, weights: Mapping[str, Tensor]) -> None:
    """A part's config.json and weights, in the dtype that they have."""
    room = folder / part
    room.mkdir(parents=True, exist_ok=True)
    (room / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _save(weights, room / WEIGHTS_FILES[part], {"format": "pt"})


def _bfloat16(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.bfloat16() for name, weight in weights.items()}


def _save(weights: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """A safetensors file. The library writes metadata in no fixed order; here it is sorted."""
    stored = save(dict(weights), metadata)
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    compact = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(compact) == length
    path.write_bytes(stored[:8] + compact + stored[8 + length :])

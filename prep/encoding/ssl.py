"""MERT and mHuBERT features of a target, for the trainer's SSL loss. docs/upstream.md, section 4.

N samples of the wave, n samples of one chunk, D width of the network's states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample
from transformers import HubertConfig, HubertModel

from common.canonical import sha256_of, sha256_of_file
from common.config import read_json
from common.errors import UserError
from models.device import whole_float32
from models.pretrained import network_options, open_whole
from shards.schema import SSL_WIDTHS, SslName

FILES = ("config.json", "model.safetensors")
FRAME_HOP = 320
"""Samples between two frames of either network, at the network's own rate."""

Network = Callable[[Tensor], Tensor]
"""Chunks [K, n] -> states [K, frames, D]."""


@dataclass(frozen=True)
class SslKind:
    """How upstream feeds one network."""

    repository: str
    rate_hz: int
    chunk_seconds: int


SSL_KINDS: dict[SslName, SslKind] = {
    "mert": SslKind("m-a-p/MERT-v1-330M", 24_000, 5),
    "mhubert": SslKind("utter-project/mHuBERT-147", 16_000, 30),
}


@dataclass(frozen=True)
class SslEncoder:
    """An opened network, for whole clips."""

    name: SslName
    network: HubertModel

    def encode(self, wave: np.ndarray, rate_hz: int) -> np.ndarray:
        """Features of [2, N] as shards hold them, float16 [frames, D]."""
        on_device = torch.from_numpy(wave).to(self.network.device)
        found = ssl_features(
            on_device, rate_hz, SSL_KINDS[self.name], lambda chunks: last_hidden_state(self.network, chunks)
        )
        return found.to("cpu", torch.float16).contiguous().numpy()


def ssl_hash(name: SslName, folder: Path) -> str:
    """SHA-256, in hex, over a network's config and weights. Raises UserError where they are not there."""
    _check_files(name, folder)
    return sha256_of([sha256_of_file(folder / file) for file in FILES])


def ssl_features(wave: Tensor, rate_hz: int, kind: SslKind, network: Network) -> Tensor:
    """Features of one clip. wave [2, N] at rate_hz -> [frames, D], about 75 (MERT) or 50 (mHuBERT) frames a second."""
    mono = normalise(resample(wave.float().mean(0), rate_hz, kind.rate_hz)[: wave.shape[-1] * kind.rate_hz // rate_hz])
    chunk = kind.chunk_seconds * kind.rate_hz
    pieces = mono.split(chunk)
    states = network(torch.stack([torch.nn.functional.pad(piece, (0, chunk - len(piece))) for piece in pieces]))
    kept = [state[: -(-len(piece) // FRAME_HOP)] for state, piece in zip(states, pieces, strict=True)]
    return torch.cat(kept)


def normalise(mono: Tensor) -> Tensor:
    """Zero mean and unit (unbiased) variance, eps 1e-7 inside the root. mono [n]."""
    return (mono - mono.mean()) / (mono.var() + 1e-7).sqrt()


@torch.inference_mode()
@whole_float32()
def last_hidden_state(network: HubertModel, chunks: Tensor) -> Tensor:
    """States of the last layer, one chunk at a time so that memory stays that of a chunk. [K, n] -> [K, frames, D]."""
    return torch.cat([network(chunk[None]).last_hidden_state for chunk in chunks])


def open_ssl_network(name: SslName, folder: Path) -> HubertModel:
    """Open MERT or mHuBERT from a local folder (config.json, model.safetensors), frozen, float32.

    MERT's own class adds code only for options that the published model leaves off, so its weights are a HubertModel's
    and no code from the folder is run. Raises UserError for a missing file, an option that would need that code, or
    weights that do not fit.
    """
    kind, width = SSL_KINDS[name], SSL_WIDTHS[name]
    config = _network_config(name, folder)
    if config.hidden_size != width:
        raise UserError(
            f"{folder}: {name} must be {width} wide, this one is {config.hidden_size}; use {kind.repository}."
        )
    return cast(HubertModel, open_whole(HubertModel, folder, config))


def _network_config(name: SslName, folder: Path) -> HubertConfig:
    _check_files(name, folder)
    path = folder / "config.json"
    values = network_options(read_json(path), path)
    for option in ("feature_extractor_cqt", "deepnorm"):
        if values.get(option):
            raise UserError(
                f"{folder}/config.json: {option} is on, which only the model's own code can do; "
                "use the published model."
            )
    return HubertConfig.from_dict({**values, "conv_pos_batch_norm": values.get("conv_pos_batch_norm", False)})


def _check_files(name: SslName, folder: Path) -> None:
    for file in FILES:
        if not (folder / file).is_file():
            way_out = (
                f"download {SSL_KINDS[name].repository}; pickled weights (.bin) must be saved as safetensors first"
            )
            raise UserError(f"{folder}: {file} is missing, so {name} cannot be opened; {way_out}.")

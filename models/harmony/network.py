"""The network that names key and chords of a vocal from its half beats: dilated convolutions over the whole clip.

B clips, L half beats of the longest, D numbers each (half_beats.py), W width. Its keys and chords count from the
signature of the half beats, so that what it says is transposed with the vocal, exactly.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from common.bases import CONFIG_FILE
from common.canonical import sha256_of, sha256_of_file
from common.config import Config
from common.errors import UserError
from models.device import shapes_alone
from models.harmony.chords import KEYS, NO_CHORD
from models.harmony.half_beats import WIDTH
from models.loading.weights import filled, network_config, read_part_config, read_weights, shapes_of

WEIGHTS_FILE = "model.safetensors"
STORED = torch.float16


class HarmonyShape(Config):
    """Its size, as config.json beside the weights holds it."""

    width: Annotated[int, Field(ge=1)] = 72
    dilations: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32, 1)
    """Half beats between the three that each block looks at."""


@dataclass(frozen=True)
class HarmonyLogits:
    """Chords of each half beat, and the key."""

    chords: Tensor  # [B, L, 24]
    keys: Tensor  # [B, 24]


class HarmonyNetwork(nn.Module):
    def __init__(self, shape: HarmonyShape) -> None:
        super().__init__()
        self.shape = shape
        self.inputs = nn.Linear(WIDTH, shape.width)
        self.blocks = nn.ModuleList(_Block(shape.width, dilation) for dilation in shape.dilations)
        self.norm = nn.LayerNorm(shape.width)
        self.chords = nn.Linear(shape.width, NO_CHORD)
        self.keys = nn.Linear(shape.width, KEYS)

    def forward(self, values: Tensor, lengths: Tensor) -> HarmonyLogits:
        """Of values [B, L, D], of which the first lengths [B] count."""
        mask = (torch.arange(values.shape[1], device=values.device) < lengths[:, None])[..., None].to(values.dtype)
        hidden = self.inputs(values) * mask
        for block in self.blocks:
            hidden = block(hidden, mask)
        hidden = self.norm(hidden)
        return HarmonyLogits(self.chords(hidden), self.keys(_mean(hidden, mask)))


class _Block(nn.Module):
    """A convolution over time beside the mean of the whole clip."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.near = nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation)
        self.whole = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm(hidden) * mask
        both = self.near(normed.mT).mT + self.whole(_mean(normed, mask))[:, None]
        return (hidden + self.out(functional.gelu(both))) * mask


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, W] over the half beats that count."""
    return (hidden * mask).sum(1) / mask.sum(1)


def open_harmony_network(folder: Path) -> HarmonyNetwork:
    """The network of config.json and model.safetensors in a folder. Raises UserError for what does not fit."""
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: no {CONFIG_FILE} inside, so that it is no harmoniser. Give a folder that `train harmoniser` "
            "wrote, such as adapter/harmoniser."
        )
    config = read_part_config(folder.parent, folder.name)
    shape = network_config(HarmonyShape, config, str(folder / CONFIG_FILE))
    with shapes_alone():
        network = HarmonyNetwork(shape)
    return filled(network, read_weights(folder / WEIGHTS_FILE, shapes_of(network)))


def save_harmony_network(folder: Path, network: HarmonyNetwork) -> None:
    """Write config.json and the weights, in half precision, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(network.shape.model_dump(mode="json"), indent=2)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8", newline="\n")
    weights = {name: tensor.detach().cpu().to(STORED) for name, tensor in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})


def harmony_network_hash(folder: Path) -> str:
    """SHA-256 in hex over the config.json and the weights in a folder."""
    return sha256_of([sha256_of_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)])

"""The training of the harmony network, and the files that it becomes.

B songs, L half beats of the longest, D numbers each, as in models/harmony/half_beats.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from common.bases import CONFIG_FILE
from models.harmony.half_beats import WIDTH
from models.harmony.network import WEIGHTS_FILE, HarmonyNetwork, HarmonyShape
from recipe.bundle import stored
from recipe.harmoniser.examples import Example, HarmoniserSettings, draw_example
from recipe.loop import Draws, Trained, fit

NOT_A_CHORD = -100
"""Half beats behind the end of a clip."""


def train_harmoniser(folder: Path, network: HarmonyNetwork, settings: HarmoniserSettings, *, seed: int) -> Trained:
    """Train `network` in place; a run that was killed goes on from `folder`. Raises UserError for other settings."""

    def losses(draws: Draws) -> dict[str, Tensor]:
        examples = [draw_example(draws.numpy, settings) for _ in range(settings.training.batch)]
        values, lengths, chords, keys = batched(examples)
        logits = network(values, lengths)
        return {
            "chords": functional.cross_entropy(logits.chords.mT, chords, ignore_index=NOT_A_CHORD),
            "key": settings.key_weight * functional.cross_entropy(logits.keys, keys),
        }

    return fit(folder, network, losses, settings.training, about=settings, seed=seed)


def batched(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values [B, L, D], lengths [B], chords [B, L] with NOT_A_CHORD behind the end, keys [B]."""
    lengths = [len(one.values) for one in examples]
    values = np.zeros((len(examples), max(lengths), WIDTH), np.float32)
    chords = np.full(values.shape[:2], NOT_A_CHORD)
    for row, one in enumerate(examples):
        values[row, : len(one.values)], chords[row, : len(one.values)] = one.values, one.chords
    keys = torch.tensor([one.key for one in examples])
    return torch.from_numpy(values), torch.tensor(lengths), torch.from_numpy(chords), keys


def write_harmoniser(folder: Path, network: HarmonyNetwork, shape: HarmonyShape) -> None:
    """config.json and the weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(shape.model_dump(mode="json"), indent=2)
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8", newline="\n")
    save_file(stored(network.state_dict()), folder / WEIGHTS_FILE, {"format": "pt"})

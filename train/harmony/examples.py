"""Songs as the harmony network sees them while it learns, and what is true of them.

B songs, L half beats of the longest, D numbers each, as in models/harmony/half_beats.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from common.config import Config
from models.harmony.beats import BEATS_PER_BAR, BeatTrack
from models.harmony.chords import transposed
from models.harmony.half_beats import WIDTH
from models.harmony.network import HarmonyLogits

UNKNOWN = -100
"""Label of a half beat behind the end of a clip, of a chord that is no triad, and of a key that nobody told."""
KEY_WEIGHT = 0.3
"""Of the key's cross entropy beside that of the chords."""


class Disturbance(Config):
    """What is done to each drawn song, so that the network forgives what a tracker and a singer do."""

    beat_seconds: Annotated[float, Field(ge=0)] = 0.008
    """Standard deviation by which beats are off."""
    wrong_bar_share: Annotated[float, Field(ge=0, le=1)] = 0.12
    """Share of songs whose downbeats are one, two or three beats off, as found beats may be."""
    other_signature_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of songs that are transposed away from their likeliest signature."""
    softest: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A half beat's pitch classes are weakened to as little as this."""
    gap_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of songs of which a tenth is not sung."""


@dataclass(frozen=True)
class Example:
    """A song as the network sees it, and what is true of it."""

    values: np.ndarray  # [L, D]
    chords: np.ndarray  # int [L], counted from the signature, or UNKNOWN
    key: int  # likewise


@dataclass(frozen=True)
class HarmonyLabels:
    """What a song plays, or what is said of it."""

    chords: np.ndarray  # int [L], or UNKNOWN
    key: int  # likewise


def disturbed_beats(beats: BeatTrack, rng: np.random.Generator, settings: Disturbance) -> BeatTrack:
    """Beats as a tracker might find them."""
    places = beats.places
    if rng.random() < settings.wrong_bar_share:
        places = (places + rng.integers(1, BEATS_PER_BAR)) % BEATS_PER_BAR
    return BeatTrack(beats.seconds + rng.normal(0, settings.beat_seconds, len(beats)), places, 1.0)


def disturbed(made: Example, rng: np.random.Generator, settings: Disturbance) -> Example:
    """A song as another singer might sing it, or at another pitch."""
    values = made.values.copy()
    values[:, :12] *= rng.uniform(settings.softest, 1.0, (len(values), 1))
    if rng.random() < settings.gap_share:
        values[:, :13] *= rng.random((len(values), 1)) > 0.1
    semitones = int(rng.integers(12)) if rng.random() < settings.other_signature_share else 0
    values[:, :12] = np.roll(values[:, :12], semitones, axis=1)
    return Example(values, labels_at(made.chords, semitones), int(labels_at(made.key, semitones)))


def labels_at(numbers: np.ndarray | int, semitones: int) -> np.ndarray:
    """Triads or keys so much higher; what is UNKNOWN stays so."""
    return np.where(np.equal(numbers, UNKNOWN), UNKNOWN, transposed(np.asarray(numbers), semitones))


def batched(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values [B, L, D], lengths [B], chords [B, L] with UNKNOWN behind the end, keys [B]."""
    lengths = [len(one.values) for one in examples]
    values = np.zeros((len(examples), max(lengths), WIDTH), np.float32)
    chords = np.full(values.shape[:2], UNKNOWN)
    for row, one in enumerate(examples):
        values[row, : len(one.values)], chords[row, : len(one.values)] = one.values, one.chords
    keys = torch.tensor([one.key for one in examples])
    return torch.from_numpy(values), torch.tensor(lengths), torch.from_numpy(chords), keys


def harmony_losses(
    network: Callable[[Tensor, Tensor], HarmonyLogits], examples: Sequence[Example]
) -> dict[str, Tensor]:
    """Cross entropy of the chords, over the half beats whose chord is known, and of the keys, weighted."""
    values, lengths, chords, keys = batched(examples)
    logits = network(values, lengths)
    return {
        "chords": _known_entropy(logits.chords.flatten(0, 1), chords.flatten()),
        "key": KEY_WEIGHT * _known_entropy(logits.keys, keys),
    }


def _known_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over what is not UNKNOWN, 0 where all is."""
    summed = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
    return summed / (labels != UNKNOWN).sum().clamp(min=1)

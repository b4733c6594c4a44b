"""A harmoniser whose key and chords a trained network names; beats are found by rules."""

from pathlib import Path

import numpy as np
import torch

from common.music.vocal_features import VocalFeatures
from models.harmony.beats import BeatTrack
from models.harmony.chords import CHORDS, KEYS, NO_CHORD, ChordTrack, decode_chords, transposed
from models.harmony.half_beats import PARTS, half_beats
from models.harmony.harmoniser import Harmoniser
from models.harmony.network import HarmonyNetwork, open_harmony_network
from models.harmony.rules import log_chord_prior
from models.loading.checkpoint import TINY

SHIPPED_HARMONISER = TINY / "harmoniser"
NEVER = -30.0
"""Log-likelihood of no chord, which the network does not know."""
PRIOR_WEIGHT = 0.3
"""How much the usual chords of a key count beside what the network says of each beat."""


class TrainedHarmoniser(Harmoniser):
    """Infers lead sheets with a network."""

    def __init__(self, network: HarmonyNetwork) -> None:
        self.network = network

    def chords(
        self,
        features: VocalFeatures,
        beats: BeatTrack,
        *,
        temperature: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> ChordTrack:
        """Key and chords of a vocal whose beats are known, two or more."""
        chords, keys = _log_probabilities(self.network, features, beats)
        prior = PRIOR_WEIGHT * log_chord_prior()
        return decode_chords(chords, prior, keys, beats.places, temperature=temperature, rng=rng)


@torch.no_grad()
def _log_probabilities(
    network: HarmonyNetwork, features: VocalFeatures, beats: BeatTrack
) -> tuple[np.ndarray, np.ndarray]:
    """Of the chords of each beat, [n, CHORDS], and of the keys, [KEYS]."""
    sung = half_beats(features, beats)
    logits = network(torch.from_numpy(sung.values)[None], torch.tensor([len(sung.values)]))
    chords, keys = logits.chords[0].log_softmax(-1).numpy(), logits.keys[0].log_softmax(-1).numpy()
    by_beat = np.full((len(beats), CHORDS), NEVER)
    by_beat[:, transposed(np.arange(NO_CHORD), sung.signature)] = chords.reshape(-1, PARTS, NO_CHORD).mean(axis=1)
    by_key = np.empty(KEYS)
    by_key[transposed(np.arange(KEYS), sung.signature)] = keys
    return by_beat, by_key


def open_harmoniser(folder: Path) -> TrainedHarmoniser:
    """The harmoniser whose network a folder holds. Raises UserError for one that does not fit."""
    return TrainedHarmoniser(open_harmony_network(folder))


def shipped_harmoniser() -> TrainedHarmoniser:
    """The one inside Backline, trained on made-up songs by `python -m recipe.harmoniser`."""
    return open_harmoniser(SHIPPED_HARMONISER)

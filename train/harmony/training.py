"""A harmoniser from a user's own songs: trained, judged on those held out, and written as a folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.func import functional_call

from common.canonical import canonical_json
from common.config import Config
from models.adapters.adapter import whole_folder
from models.harmony.network import (
    HarmonyNetwork,
    HarmonyShape,
    harmony_network_hash,
    open_harmony_network,
    save_harmony_network,
)
from train.fitting import Draws, TrainingSettings, fit
from train.harmony.examples import Disturbance, harmony_losses
from train.harmony.report import (
    BeatScore,
    HarmonyScore,
    score_of_beats,
    score_of_chance,
    score_of_key_alone,
    score_of_network,
    score_of_rules,
)
from train.harmony.songs import SungSongs

TRAINING_FILE = "training.json"
FROM_NOTHING = TrainingSettings(steps=200, batch=32, learning_rate=3e-3, warmup_steps=20, average_decay=0.99)
FROM_ANOTHER = FROM_NOTHING.model_copy(update={"learning_rate": 1e-3})
DISTURBANCE = Disturbance()


class HarmonyTraining(Config):
    """training.json: what a harmoniser learned from, and what it is worth on the songs held out."""

    shards_fingerprint: str
    init_from: str | None
    """Hash of the harmoniser that it started from."""
    seed: int
    training_songs: int
    held_out_songs: int
    """They also chose the step."""
    steps: int
    chosen_step: int
    """Whose weights did best on the songs held out; 0 are those it started from."""
    beats: BeatScore
    scores: dict[str, HarmonyScore]
    """By who names chords and keys."""


def train_harmony(songs: SungSongs, out: Path, *, start: Path | None, seed: int) -> HarmonyTraining:
    """Train a harmoniser, from nothing without `start`, and write it to `out`: the same bytes for the same songs.

    Raises UserError for a start that is no harmoniser, and where `out` cannot be written.
    """
    torch.manual_seed(seed)
    network = HarmonyNetwork(HarmonyShape()) if start is None else open_harmony_network(start)
    started = None if start is None else score_of_network(network, songs.held_out)
    settings = FROM_NOTHING if start is None else FROM_ANOTHER
    with TemporaryDirectory() as folder:
        chosen = _fitted(Path(folder) / "harmoniser", network.requires_grad_(), songs, settings, seed)
    with whole_folder(out) as partial:
        save_harmony_network(partial, network)
        stored = open_harmony_network(partial)
        scores = {
            "chance": score_of_chance(stored, songs.held_out),
            "key alone": score_of_key_alone(songs.training, songs.held_out),
            "rules": score_of_rules(songs.held_out),
            **({} if started is None else {"started from": started}),
            "trained": score_of_network(stored, songs.held_out),
        }
        training, held_out = songs.counts
        made = HarmonyTraining(
            shards_fingerprint=songs.manifest.fingerprint.digest,
            init_from=None if start is None else harmony_network_hash(start),
            seed=seed,
            training_songs=training,
            held_out_songs=held_out,
            steps=settings.steps,
            chosen_step=chosen,
            beats=score_of_beats(songs.held_out),
            scores=scores,
        )
        (partial / TRAINING_FILE).write_text(
            canonical_json(made.model_dump(mode="json"), indent=2), encoding="utf-8", newline="\n"
        )
    return made


def _fitted(folder: Path, network: HarmonyNetwork, songs: SungSongs, settings: TrainingSettings, seed: int) -> int:
    """Train a network in place, and give the step of its weights."""
    held_out = [song.example() for song in songs.held_out]

    def losses(draws: Draws) -> dict[str, Tensor]:
        chosen = draws.numpy.integers(len(songs.training), size=settings.batch)
        drawn = [songs.training[number].draw(draws.numpy, DISTURBANCE) for number in chosen]
        return harmony_losses(network, drawn)

    @torch.no_grad()
    def judge(weights: Mapping[str, Tensor]) -> float:
        judged = harmony_losses(lambda *inputs: functional_call(network, dict(weights), inputs), held_out)
        return -math.fsum(loss.item() for loss in judged.values())

    return fit(folder, network, losses, settings, about=settings, seed=seed, judge=judge).chosen_step

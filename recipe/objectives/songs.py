"""Songs to train on and songs to judge with, as files and as shards. Their prompts say who plays, not in which key.

M audio samples at 22.05 kHz; N songs, C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.wave import read_audio, stereo_at
from common.bases import ACE_STEP_1
from common.progress import progress
from infer.evaluate.measures.clip import Clip
from models.acestep1.text.lyric_tokens import INSTRUMENTAL
from prep.building.build import build_shards
from prep.config import PrepConfig, TrimConfig
from prep.made_up.folder import write_song
from prep.made_up.melody import compose
from prep.made_up.render import render_song, song_key
from prep.made_up.truth import SongTruth, tell_truth, untold
from prep.made_up.world import draw_world
from recipe.flow import tags_of
from shards.reader import read_song
from shards.schema import Sample
from train.data.plan import seeded
from train.loop.validation import derangement


def untold_band(prompt: str) -> str:
    """The tags of a song's accompaniment without tempo, key and mode."""
    return untold(tags_of(prompt, "inst"))


def write_songs(folder: Path, seeds: Sequence[int], seconds: float) -> None:
    """Render every song that `folder` lacks, as stems with texts that tell nothing of tempo, key, mode and sections."""
    missing = [seed for seed in seeds if not (folder / f"{song_key(seed)}_mix.flac").is_file()]
    with progress(len(seeds), folder.name, "songs", done=len(seeds) - len(missing)) as done:
        for seed in missing:
            song = render_song(seed, seconds)
            texts = {"prompt": untold_band(song.truth.prompt), "lyrics": INSTRUMENTAL}
            write_song(folder, replace(song, truth=song.truth.model_copy(update=texts)), form="stems")
            done.update()


def make_shards(songs: Path, out: Path, bundle: Path, *, seconds: float) -> None:
    """Encode what `out` lacks. No silence is trimmed, so that a judged song and its truth begin together."""
    config = PrepConfig(targets=("inst",), trim=TrimConfig(keep_seconds=seconds))
    build_shards(songs, out, config, checkpoint=str(bundle), workers=1, devices=("cpu",), rebuild=False)


def true_bands(samples: Sequence[Sample]) -> Tensor:
    """Latents [N, C, H, T] of the accompaniments of songs of one length."""
    return torch.from_numpy(np.stack([sample.targets["inst"] for sample in samples])).float()


@dataclass(frozen=True)
class JudgedSongs:
    """The songs that judge, all of one length."""

    samples: tuple[Sample, ...]
    truths: tuple[SongTruth, ...]
    folder: Path
    """Of their files."""
    others: tuple[int, ...]
    """For each song the one whose vocal it gets in exchange."""

    @classmethod
    def read(cls, folder: Path, shards: Path, seeds: Sequence[int], seconds: float) -> "JudgedSongs":
        """Raises UserError where a song is not in the shards."""
        worlds = [draw_world(seed, seconds) for seed in seeds]
        return cls(
            samples=tuple(read_song(shards, song_key(seed))[0] for seed in seeds),
            truths=tuple(tell_truth(world, compose(world)) for world in worlds),
            folder=folder,
            others=tuple(derangement(len(seeds), seeded("objectives", "derangement"))),
        )

    def vocal(self, number: int) -> np.ndarray:
        """float32 [M]"""
        return self._clip(number, "vocal").mono

    def band(self, number: int) -> Clip:
        """The true accompaniment."""
        return self._clip(number, "inst")

    def _clip(self, number: int, part: str) -> Clip:
        path = self.folder / f"{song_key(self.truths[number].seed)}_{part}.flac"
        return Clip(stereo_at(read_audio(path), ACE_STEP_1.latents.sample_rate_hz))

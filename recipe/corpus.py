"""The made-up songs that everything is trained on, levelled as prep levels them, as 16-bit files in the work folder.

N audio samples at 44100 Hz. Seeds from HELD_OUT_SEED up judge the networks and are never trained on.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from common.audio.wave import gain_to, loudness_lufs, peak_dbfs
from common.bases import ACE_STEP_1
from common.config import Config
from common.files import whole_file
from common.progress import progress
from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.melody import compose
from prep.made_up.render import render_song
from prep.made_up.truth import SongTruth, tell_truth
from prep.made_up.world import draw_world

LATENTS = ACE_STEP_1.latents

FULL_SCALE = 2**15
TARGET_LUFS = -14.0

AudioName = Literal["vocal", "inst", "mix"]
AUDIO_NAMES: Sequence[AudioName] = ("vocal", "inst", "mix")


class CorpusSettings(Config):
    songs: int = 2400
    """Songs to train on, of seeds 0 and up."""
    crop_songs: int = 600
    """How many of these codec, vocoder and separator are trained on; the transformer needs them all."""
    judged: int = 48
    """Songs to judge with, of seeds HELD_OUT_SEED and up."""
    seconds: float = 10.0
    """Length of each song."""


@dataclass(frozen=True)
class Stems:
    """The two parts of a song or of a crop of it, float32 [2, N]."""

    vocal: np.ndarray
    inst: np.ndarray

    def audio(self, what: AudioName) -> np.ndarray:
        """One of the parts, or their sum."""
        return {"vocal": self.vocal, "inst": self.inst}[what] if what != "mix" else self.vocal + self.inst


@dataclass(frozen=True)
class Corpus:
    """The songs in a folder."""

    folder: Path
    settings: CorpusSettings

    @property
    def train_seeds(self) -> range:
        return range(self.settings.songs)

    @property
    def judged_seeds(self) -> range:
        return range(HELD_OUT_SEED, HELD_OUT_SEED + self.settings.judged)

    def path(self, seed: int) -> Path:
        return self.folder / f"{seed:06d}.npy"

    def truth(self, seed: int) -> SongTruth:
        """What is true of song `seed`; nothing is rendered for it."""
        world = draw_world(seed, self.settings.seconds)
        return tell_truth(world, compose(world))

    def song(self, seed: int) -> Stems:
        """The whole of song `seed`."""
        return _floats(np.load(self.path(seed), mmap_mode="r"))

    def crop(self, rng: np.random.Generator, samples: int) -> Stems:
        """`samples` from anywhere in one of the first `crop_songs` songs."""
        parts = np.load(self.path(int(rng.integers(self.settings.crop_songs))), mmap_mode="r")
        start = int(rng.integers(parts.shape[-1] - samples + 1))
        return _floats(parts[..., start : start + samples])


def _floats(parts: np.ndarray) -> Stems:
    vocal, inst = parts.astype(np.float32) / FULL_SCALE
    return Stems(vocal, inst)


def draw_wave(
    corpus: Corpus,
    samples: int,
    *,
    shares: tuple[float, float, float],
    gain_db: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """A crop of a vocal, an accompaniment or a mix, each drawn as often as `shares` say, made louder by a drawn gain.

    [2, N]
    """
    crop = corpus.crop(rng, samples)
    what = AUDIO_NAMES[rng.choice(len(AUDIO_NAMES), p=shares)]
    return crop.audio(what) * np.float32(10 ** (rng.uniform(*gain_db) / 20))


def make_corpus(folder: Path, settings: CorpusSettings, *, workers: int) -> Corpus:
    """Render every song that `folder` lacks; songs that are there stay as they are."""
    corpus = Corpus(folder, settings)
    wanted = [*corpus.judged_seeds, *corpus.train_seeds]
    missing = [seed for seed in wanted if not corpus.path(seed).is_file()]
    if missing:
        _render_all(corpus, missing, workers)
    return corpus


def _render_all(corpus: Corpus, seeds: Sequence[int], workers: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers' own
    paths, lengths = [corpus.path(seed) for seed in seeds], [corpus.settings.seconds] * len(seeds)
    with ExitStack() as stack:
        done = stack.enter_context(progress(len(seeds), "corpus", "songs"))
        each = map
        if workers > 1:
            each = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))).map
        for _ in each(_render, seeds, paths, lengths):
            done.update()


def _render(seed: int, path: Path, seconds: float) -> None:
    """Write song `seed` as int16 [vocal and inst, 2, N], its mix at TARGET_LUFS unless a peak forbids."""
    song = render_song(seed, seconds)
    parts = np.stack([song.vocal, song.inst])
    peak = max(peak_dbfs(part) for part in (*parts, song.mix))
    gain = gain_to(TARGET_LUFS, lufs=loudness_lufs(song.mix, LATENTS.sample_rate_hz), peak=peak)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, np.rint(parts * gain.factor * FULL_SCALE).astype(np.int16))

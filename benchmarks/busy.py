"""How busy prep would keep a GPU, worked out from the CPU time between the calls of its networks.

    uv run python -m benchmarks.busy [--workers 1 2 3 4] [--minutes 4] [--form song|stems] [--tflops 19.5]

A song goes through prep with networks that do nothing but note when they are called; a card would take their operations
over its TFLOP/s. Then workers go through songs of half to one and a half times that length. Those that want the card at
a time share it, and each has a core. By default the card is an A100 at the float32 figure of its data sheet: one that
sustains less waits less for the CPU.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import soundfile
import torch
from demucs.apply import BagOfModels
from torch import Tensor, nn

from benchmarks.prep import build, music
from common.bases import ACE_STEP_1
from common.system import give_memory_back
from models.acestep1.codec.codec import Codec
from models.separator import Separator
from prep.config import PrepConfig
from prep.encoding.encode import SongEncoder
from prep.encoding.separated import SongSeparator

LATENTS = ACE_STEP_1.latents

ENCODE_GFLOP, SEPARATE_GFLOP = 69.0, 37.0
"""For a second of one part, and for a second of a full song with its overlaps: docs/scaling.md."""
WINDOW_SECONDS = 7.8
"""Of htdemucs."""
SONGS = 100
"""That the workers share."""


@dataclass(frozen=True)
class Call:
    """A network was called."""

    cpu_seconds: float
    """That this process had used by then."""
    gflop: float


@dataclass(frozen=True)
class Step:
    """What a worker does between two calls, and how long the card then works for it."""

    cpu_seconds: float
    card_seconds: float


@dataclass
class CountedGpu:
    """A GPU that nobody has here."""

    calls: list[Call] = field(default_factory=list)

    def work(self, gflop: float) -> None:
        """Note that it would have so much to do now."""
        self.calls.append(Call(time.process_time(), gflop))


class CountedCodec(nn.Module):
    """An encoder whose latents are all zero."""

    def __init__(self, card: CountedGpu) -> None:
        super().__init__()
        self.card, self.weight = card, nn.Parameter(torch.zeros(1))

    def encode(self, wave: Tensor, *, longest: int) -> Tensor:
        self.card.work(ENCODE_GFLOP * wave.shape[-1] / LATENTS.sample_rate_hz)
        return torch.zeros(LATENTS.channels, LATENTS.rows, LATENTS.frames_of(wave.shape[-1]))


class CountedDemucs(nn.Module):
    """A separator that takes half of the mix for the vocal."""

    sources, samplerate, audio_channels = ("drums", "bass", "other", "vocals"), LATENTS.sample_rate_hz, 2
    segment = WINDOW_SECONDS

    def __init__(self, card: CountedGpu, overlap: float) -> None:
        super().__init__()
        self.card, self.gflop = card, SEPARATE_GFLOP * (1 - overlap) * WINDOW_SECONDS
        self.weight = nn.Parameter(torch.zeros(1))

    def valid_length(self, samples: int) -> int:
        return int(self.segment * self.samplerate)

    def forward(self, mix: Tensor) -> Tensor:
        self.card.work(self.gflop)
        return (mix / 2)[:, None].expand(-1, len(self.sources), -1, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3, 4], help="processes on the card")
    parser.add_argument("--minutes", type=float, default=4.0, help="length of a song")
    parser.add_argument("--form", choices=["song", "stems"], default="song", help="separated, or vocal and mix given")
    parser.add_argument("--tflops", type=float, default=19.5, help="what the card sustains")
    chosen = parser.parse_args()
    steps = song_steps(chosen.minutes * 60, form=chosen.form, tflops=chosen.tflops)
    cpu, card = sum(step.cpu_seconds for step in steps), sum(step.card_seconds for step in steps)
    print(f"a song of {chosen.minutes:g} min: {cpu:.2f} s of CPU (measured), {card:.2f} s of the card (computed)")
    lengths = np.random.default_rng(0).uniform(0.5, 1.5, SONGS).tolist()
    for workers in chosen.workers:
        seconds = build_seconds(steps, lengths, workers)
        share = sum(lengths) * card / seconds
        print(f"{workers} workers: the card is busy for {share:.0%}, {seconds / 60:.1f} min for {SONGS} songs")


def song_steps(seconds: float, *, form: str, tflops: float) -> list[Step]:
    """The steps of one song; a first one, which warms up, does not count."""
    torch.set_num_threads(1)
    give_memory_back()
    card, config = CountedGpu(), PrepConfig()
    demucs: Any = CountedDemucs(card, config.separator.overlap)
    separator = Separator("counted", BagOfModels([demucs]), torch.device("cpu"), overlap=config.separator.overlap)
    encoder = SongEncoder(config, cast(Codec, CountedCodec(card)), SongSeparator(separator.name, lambda: separator))
    with TemporaryDirectory() as folder:
        write_song(Path(folder), seconds, form=form)
        for _ in range(2):
            card.work(0.0)
            build(Path(folder), encoder)
        card.work(0.0)
    start = max(number for number, call in enumerate(card.calls[:-1]) if not call.gflop)
    calls = card.calls[start:]
    return [Step(call.cpu_seconds - before.cpu_seconds, call.gflop / tflops / 1000) for before, call in pairwise(calls)]


@dataclass
class Worker:
    """One that goes through songs."""

    scale: float
    """Of the song at hand, against the one that was measured."""
    place: int = 0
    """In a song's steps; even where the CPU is at work, odd for the card."""
    left: float = 0.0
    """Seconds of what it does now."""


def build_seconds(steps: Sequence[Step], songs: Sequence[float], workers: int) -> float:
    """How long so many workers take for songs of these lengths, against the measured one, on one card."""
    path = [seconds for step in steps for seconds in (step.cpu_seconds, step.card_seconds)]
    waiting, now = list(songs), 0.0
    crew = [Worker(scale, 0, scale * path[0]) for scale in (waiting.pop() for _ in range(min(workers, len(songs))))]
    while crew:
        sharing = sum(worker.place % 2 for worker in crew)
        slowed = [sharing if worker.place % 2 else 1 for worker in crew]
        passed = min(worker.left * slow for worker, slow in zip(crew, slowed, strict=True))
        now += passed
        for worker, slow in zip(crew, slowed, strict=True):
            worker.left -= passed / slow
        for worker in [worker for worker in crew if worker.left <= 1e-9]:
            worker.place += 1
            if worker.place == len(path) and waiting:
                worker.place, worker.scale = 0, waiting.pop()
            if worker.place == len(path):
                crew.remove(worker)
            else:
                worker.left = worker.scale * path[worker.place]
    return now


def write_song(folder: Path, seconds: float, *, form: str) -> None:
    """A made-up song as song.flac, or as its mix and vocal."""
    names = {"song": ["song.flac"], "stems": ["song_mix.flac", "song_vocal.flac"]}[form]
    files = [soundfile.SoundFile(folder / name, "w", LATENTS.sample_rate_hz, 2, "PCM_16") for name in names]
    for minute in music(seconds):
        for file, wave in zip(files, minute, strict=False):
            file.write(wave)
    for file in files:
        file.close()


if __name__ == "__main__":
    main()

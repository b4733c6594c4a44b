"""How fast batches come: out of shards and out of memory, against reading bare bytes and against encoding on the fly.

    uv run python -m benchmarks.stream [--songs 16] [--seconds 30] [--batch-size 8] [--rounds 7]

Samples per second of CPU time; the rounds of all ways take turns, and each figure is a median of them.
"""

import argparse
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.made_shards import make_shards
from common.audio.wave import read_audio, stereo_at
from common.bases import ACE_STEP_1
from models.loading.checkpoint import TINY, open_codec, open_text_encoder
from shards.reader import read_manifest
from shards.tar import npy_array
from train.config import TrainingConfig
from train.data.clips import ClipMaker
from train.data.loader import BatchLoader, ShardSamples, room_in_memory, split
from train.loop.module import conditioning_of

LEAST_OF_BARE, LEAST_OF_ENCODING = 0.5, 100.0
"""Targets: streaming against bare reading and against encoding on the fly."""
EPOCHS = 8
"""Epochs in one round of a loader."""
ENCODED_SONGS = 2
"""Songs in one round of encoding on the fly."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), songs=arguments.songs, seconds=arguments.seconds)
        config = TrainingConfig(dataset_path=str(shards), batch_size=arguments.batch_size, val_fraction=0.0)
        ways = {
            "bare": lambda: read_bare(shards),
            "streamed": lambda: run_loader(config, in_memory=False),
            "in memory": lambda: run_loader(config, in_memory=True),
            "encoding": Encoding(shards.parent / "raw"),
        }
        rates = measured(ways, rounds=arguments.rounds)
    for name, rate in rates.items():
        print(f"{name:<10} {rate:10.1f} samples a second of CPU time")
    for other, least in (("bare", LEAST_OF_BARE), ("encoding", LEAST_OF_ENCODING)):
        print(f"streamed / {other:<9} {rates['streamed'] / rates[other]:10.2f}   (target at least {least:g})")


def measured(ways: Mapping[str, Callable[[], tuple[int, float]]], *, rounds: int) -> dict[str, float]:
    """Samples per second of each way: the median of rounds that take turns, after one that does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            samples, seconds = way()
            rates[name].append(samples / seconds)
    return {name: median(found[1:]) for name, found in rates.items()}


def read_bare(shards: Path) -> tuple[int, float]:
    """Read every member of the same tars and view the arrays as numpy; (samples, CPU seconds)."""
    entries = read_manifest(shards).shards
    started = time.process_time()
    for entry in entries * EPOCHS:
        with tarfile.open(shards / entry.name, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
                if member.name.endswith(".npy"):
                    npy_array(content)
    return EPOCHS * sum(entry.samples for entry in entries), time.process_time() - started


def run_loader(config: TrainingConfig, *, in_memory: bool) -> tuple[int, float]:
    """Epochs of batches as the trainer is handed them; (samples, CPU seconds)."""
    folder = Path(config.dataset_path)
    manifest = read_manifest(folder)
    assert manifest.statistics is not None
    segments = split(manifest, config.val_fraction).training
    samples = ShardSamples(folder, manifest, "inst")
    if in_memory:
        samples.remember({segment.key for segment in segments}, room=room_in_memory())
    maker = ClipMaker(config, conditioning_of(config), manifest.statistics, ACE_STEP_1)
    per_epoch = BatchLoader(samples, segments, maker, length=1).per_epoch
    loader = BatchLoader(samples, segments, maker, length=EPOCHS * per_epoch)
    started = time.process_time()
    handed = sum(len(clips.keys) for clips in loader)
    return handed, time.process_time() - started


class Encoding:
    """Training without a cache: decode vocal and backing, encode both and the prompt with the same checkpoint."""

    def __init__(self, raw: Path) -> None:
        self._codec = open_codec(TINY, encoder=True, decoder=False)
        self._text = open_text_encoder(TINY)
        self._songs = sorted(raw.glob("*_vocal.flac"))[:ENCODED_SONGS]

    @torch.no_grad()
    def __call__(self) -> tuple[int, float]:
        """(samples, CPU seconds)."""
        started = time.process_time()
        for vocal in self._songs:
            for path in (vocal, vocal.with_name(vocal.name.replace("_vocal", "_inst"))):
                self._codec.encode(torch.from_numpy(stereo_at(read_audio(path), ACE_STEP_1.latents.sample_rate_hz)))
            prompt = vocal.with_name(vocal.name.replace("_vocal.flac", "_prompt.txt"))
            self._text.embed([prompt.read_text(encoding="utf-8")])
        return len(self._songs), time.process_time() - started


if __name__ == "__main__":
    main()

"""Peak memory of prep above its loaded networks, for songs of several lengths, as ratios to the first.

    uv run python -m benchmarks.prep [--minutes 4 120] [--form song|stems] [--set segment.max_seconds=60]

Each song is built in a process of its own, with the tiny bundle; peaks are the kernel's (VmHWM), so Linux only. The
time of each build stands beside it, as seconds of sound a second.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch

from common.bases import ACE_STEP_1
from models.loading.checkpoint import TINY
from models.separator import find_separator
from prep.building.identity import hash_song
from prep.building.jobs import EncodeSetup, SongJob, encode_song
from prep.building.segment_cache import SegmentCache
from prep.config import PrepConfig, load_prep_config
from prep.encoding.encode import SongEncoder
from prep.sources.scan import scan

LATENTS = ACE_STEP_1.latents

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one song."""

    bytes: int
    """Peak of the process above what it held with its networks loaded."""
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[4.0, 120.0], help="lengths of the songs")
    parser.add_argument("--form", choices=["song", "stems"], default="song", help="separated, or vocal and mix given")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="NAME=VALUE")
    parser.add_argument("--scratch", type=Path, help="where the songs lie [the system's temporary folder]")
    arguments = parser.parse_args()
    config = load_prep_config("prep_base", arguments.settings)
    costs = []
    for minutes in arguments.minutes:
        costs.append(song_cost(minutes * 60, config, form=arguments.form, scratch=arguments.scratch))
        ratio, speed = costs[-1].bytes / costs[0].bytes, minutes * 60 / costs[-1].seconds
        print(f"{minutes:g} min: {costs[-1].bytes / MIB:.0f} MiB, {ratio:.2f} x the first; {speed:.1f} s a second")


def song_cost(seconds: float, config: PrepConfig, *, form: str, scratch: Path | None = None) -> Cost:
    """What it takes to encode a made-up song of so many seconds and to keep it, in a fresh process."""
    with TemporaryDirectory(dir=scratch) as folder:
        write_song(Path(folder), seconds, form=form)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_encode, (Path(folder), config))


def _encode(folder: Path, config: PrepConfig) -> Cost:
    torch.set_num_threads(1)
    separator = find_separator(config.separator.name, TINY)
    encoder = EncodeSetup(config, TINY, separator, ("cpu",)).open("cpu")
    with TemporaryDirectory() as warm:  # a first short song loads what is loaded late
        write_song(Path(warm), 1.5, form="stems" if separator is None else "song")
        build(Path(warm), encoder)
    held = reset_peak()
    start = time.perf_counter()
    build(folder, encoder)
    return Cost(peak() - held, time.perf_counter() - start)


def build(folder: Path, encoder: SongEncoder) -> None:
    """Encode the song in a folder and keep its segments there."""
    (song,) = scan(folder).songs
    for result in encode_song(SongJob(hash_song(song, folder), SegmentCache(folder, "")), encoder):
        assert result.rejection is None, result.rejection


def reset_peak() -> int:
    """Make the kernel forget this process's highest memory; the bytes that it holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii", newline="\n")
    return peak()


def peak() -> int:
    """Highest resident memory of this process since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def write_song(folder: Path, seconds: float, *, form: str) -> None:
    """A sung tone with pauses over noise as song.wav, or as its vocal and mix; never more than a minute in memory."""
    names = {"song": ["song.wav"], "stems": ["song_mix.wav", "song_vocal.wav"]}[form]
    files = [soundfile.SoundFile(folder / name, "w", LATENTS.sample_rate_hz, 2, "PCM_16") for name in names]
    for minute in music(seconds):
        for file, wave in zip(files, minute, strict=False):
            file.write(wave)
    for file in files:
        file.close()


def music(seconds: float) -> Iterator[Sequence[np.ndarray]]:
    """Mix and vocal [n, 2], a minute at a time."""
    rng = np.random.default_rng(0)
    for start in np.arange(0, seconds, 60.0):
        t = start + np.arange(round(min(60.0, seconds - start) * LATENTS.sample_rate_hz)) / LATENTS.sample_rate_hz
        vocal = 0.3 * np.sin(2 * np.pi * (220 + start) * t) * ((t % 0.75) < 0.5)
        band = 0.05 * rng.normal(size=(t.size, 2))
        yield vocal[:, None] + band, np.stack([vocal, vocal], axis=1)


if __name__ == "__main__":
    main()

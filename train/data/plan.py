"""Which clips meet in which batch: a pure function of the manifest, the seed and the epoch.

Shards are read a window at a time, so that streaming needs the memory of a few shards; a batch holds clips of one
length; what does not fill a batch waits for the next window. Every segment is used exactly once in an epoch, and an
epoch has the same number of batches each time.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

WINDOW_SHARDS = 8
"""Shards whose segments are shuffled together."""
LENGTHS_PER_OCTAVE = 8
"""Clips shorter than the crop are cut to one of this many lengths between a length and its double."""

Element = TypeVar("Element")


@dataclass(frozen=True)
class Segment:
    """One training sample as the manifest lists it."""

    key: str
    song: str
    frames: int
    shard: int  # index of its shard in the manifest


@dataclass(frozen=True)
class ShardWindow:
    """Shards to read, then batches (of keys) that those and earlier windows supply."""

    shards: tuple[int, ...]
    batches: tuple[tuple[str, ...], ...]


def seed_of(*parts: object) -> int:
    """A seed that depends on `parts` only."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seeded(*parts: object) -> torch.Generator:
    """A generator that depends on `parts` only."""
    return torch.Generator().manual_seed(seed_of(*parts))


def clip_frames(frames: int, crop_frames: int) -> int:
    """Frames of the clip cut from a segment: the crop, or a little less than the segment where that is shorter."""
    if frames >= crop_frames:
        return crop_frames
    step = max(1, 2 ** (frames.bit_length() - 1) // LENGTHS_PER_OCTAVE)
    return frames - frames % step


def plan_epoch(
    segments: Sequence[Segment], *, seed: int, epoch: int, batch_size: int, crop_frames: int
) -> tuple[ShardWindow, ...]:
    """Batches of one epoch, window by window, in the order they are trained on."""
    generator = seeded(seed, "plan", epoch)
    by_shard: dict[int, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_shard[segment.shard].append(segment)
    shards = _shuffled(sorted(by_shard), generator)
    waiting: dict[int, list[str]] = defaultdict(list)  # by clip length
    windows = []
    for start in range(0, len(shards), WINDOW_SHARDS):
        inside = shards[start : start + WINDOW_SHARDS]
        for segment in _shuffled([segment for shard in inside for segment in by_shard[shard]], generator):
            waiting[clip_frames(segment.frames, crop_frames)].append(segment.key)
        fewest = 1 if start + WINDOW_SHARDS >= len(shards) else batch_size  # the last window leaves nobody waiting
        windows.append(ShardWindow(tuple(inside), tuple(_shuffled(_take(waiting, batch_size, fewest), generator))))
    return tuple(windows)


def batches_per_epoch(segments: Sequence[Segment], *, batch_size: int, crop_frames: int) -> int:
    """Batches of any epoch."""
    lengths: dict[int, int] = defaultdict(int)
    for segment in segments:
        lengths[clip_frames(segment.frames, crop_frames)] += 1
    return sum(math.ceil(count / batch_size) for count in lengths.values())


def _take(waiting: dict[int, list[str]], batch_size: int, fewest: int) -> list[tuple[str, ...]]:
    """Batches of at least `fewest` keys of one length, taken out of `waiting`."""
    batches = []
    for length, keys in waiting.items():
        while len(keys) >= fewest and keys:
            batches.append(tuple(keys[:batch_size]))
            del keys[:batch_size]
        waiting[length] = keys
    return batches


def _shuffled(items: Sequence[Element], generator: torch.Generator) -> list[Element]:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]

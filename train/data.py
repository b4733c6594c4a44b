"""Batches for a run: which songs train and which validate, samples from shards or memory, and where the run stands."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from common.errors import UserError
from shards.reader import read_shard
from shards.schema import Manifest, Sample, Target
from train.clips import Batch, ClipMaker
from train.config import TrainingConfig
from train.plan import Segment, Window, batches_per_epoch, plan_epoch, validation_songs

MEMORY_SHARE = 0.5
"""Shards are kept in memory if they take less than this share of what is free."""


@dataclass(frozen=True)
class Split:
    """Segments of the songs to train on, and one segment of each song to validate on."""

    training: tuple[Segment, ...]
    validation: tuple[Segment, ...]


def split(manifest: Manifest, fraction: float) -> Split:
    """Divide the songs of a manifest; each validation song is asked about its first segment."""
    segments = [
        Segment(entry.key, entry.song, entry.frames, shard)
        for shard, listed in enumerate(manifest.shards)
        for entry in listed.segments
    ]
    kept = validation_songs([segment.song for segment in segments], fraction)
    first = {segment.song: segment for segment in sorted(segments, key=lambda s: s.key, reverse=True)}
    return Split(
        training=tuple(segment for segment in segments if segment.song not in kept),
        validation=tuple(first[song] for song in sorted(kept)),
    )


def check_manifest(manifest: Manifest, config: TrainingConfig) -> None:
    """Raise UserError if these shards cannot train this configuration."""
    target = target_of(config)
    if target not in manifest.targets:
        held = ", ".join(manifest.targets) or "no target"
        raise UserError(
            f"{config.dataset_path}: output_type {config.accompaniment.output_type} needs the target {target}, these "
            f"shards hold {held}. Build them with --targets {target}, or choose another output_type."
        )
    if manifest.statistics is None:
        raise UserError(
            f"{config.dataset_path}: no latent statistics in the manifest. Build shards with prep build-shards."
        )


def target_of(config: TrainingConfig) -> Target:
    """The field that a run learns to make."""
    return "inst" if config.accompaniment.output_type == "accompaniment" else "mix"


class ShardSamples:
    """Samples of chosen segments, read when asked for; from memory once `remember` found room for all of them."""

    def __init__(self, folder: Path, manifest: Manifest, target: Target) -> None:
        self._folder, self._manifest, self._target = folder, manifest, target
        self._kept: dict[str, Sample] | None = None

    def remember(self, keys: AbstractSet[str]) -> bool:
        """Read and keep the samples of `keys` if the shards fit into memory; whether they did."""
        fits = sum(entry.bytes for entry in self._manifest.shards) < MEMORY_SHARE * psutil.virtual_memory().available
        if fits:
            self._kept = self._read(range(len(self._manifest.shards)), keys)
        return fits

    def load(self, shards: Sequence[int], keys: AbstractSet[str]) -> dict[str, Sample]:
        """Samples of `keys`, all of them in `shards`, by key."""
        if self._kept is not None:
            return {key: self._kept[key] for key in keys}
        return self._read(shards, keys)

    def _read(self, shards: Sequence[int], keys: AbstractSet[str]) -> dict[str, Sample]:
        found = {}
        for entry in (self._manifest.shards[shard] for shard in shards):
            for sample in read_shard(self._folder, entry):
                if sample.meta.key in keys:
                    found[sample.meta.key] = self._slim(sample)
        lost = sorted(keys - found.keys())
        if lost:
            raise UserError(
                f"{self._folder}: {lost[0]} is not in its shard, though the manifest lists it. Run prep verify."
            )
        return found

    def _slim(self, sample: Sample) -> Sample:
        """Without the target that this run does not use."""
        if self._target == "inst":
            return replace(sample, mix=None, mix_mert=None, mix_mhubert=None)
        return replace(sample, inst=None, inst_mert=None, inst_mhubert=None)


@dataclass(frozen=True)
class Scheduled:
    """A batch in one rank's order of an epoch."""

    window: int
    keys: tuple[str, ...]
    weight: float  # 0 only fills up the last round, so that all ranks take as many steps


class BatchLoader:
    """Epoch after epoch of batches, `length` in all; counts those handed out, and goes on from any count.

    One pass of Lightning's loop is the whole run: accumulation and logging never meet the end of an epoch.
    """

    def __init__(
        self,
        samples: ShardSamples,
        segments: Sequence[Segment],
        maker: ClipMaker,
        *,
        length: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._samples, self._segments, self._maker = samples, tuple(segments), maker
        self._length, self._rank, self._ranks = length, rank, ranks
        config = maker.config
        batches = batches_per_epoch(segments, batch_size=config.batch_size, crop_frames=config.crop_frames)
        self.per_epoch = -(-batches // ranks)
        self.handed = 0

    @property
    def epoch(self) -> int:
        """Epoch of the batch handed out last."""
        return max(0, self.handed - 1) // self.per_epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        while self.handed < self._length:
            epoch, done = divmod(self.handed, self.per_epoch)
            for batch in self._epoch(epoch, done):
                self.handed += 1
                yield batch
                if self.handed == self._length:
                    return

    def state_dict(self) -> dict[str, int | str]:
        """Where the run stands in its data."""
        return {"handed": self.handed, "order": self._order()}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go on from a state. Raises UserError if these are other data, batches or ranks."""
        if state["order"] != self._order():
            raise UserError(
                "the songs, batch_size, crop or number of devices changed since the checkpoint, so its place in the "
                "data means nothing here. Resume with what it was made with, or start anew without --resume."
            )
        self.handed = int(state["handed"])

    def _epoch(self, epoch: int, done: int) -> Iterator[Batch]:
        """This rank's batches of an epoch after the first `done`."""
        config = self._maker.config
        windows = plan_epoch(
            self._segments,
            seed=config.seed,
            epoch=epoch,
            batch_size=config.batch_size,
            crop_frames=config.crop_frames,
        )
        schedule = striped(windows, self._rank, self._ranks)[done:]
        uses = Counter(key for batch in schedule for key in batch.keys)
        shard_of = {segment.key: segment.shard for segment in self._segments}
        ready: dict[str, Sample] = {}
        for number, window in enumerate(windows):
            keys = {key for key in uses if shard_of[key] in window.shards}
            ready |= self._samples.load(sorted({shard_of[key] for key in keys}), keys)
            for batch in (batch for batch in schedule if batch.window == number):
                yield self._maker.batch([ready[key] for key in batch.keys], epoch=epoch, weight=batch.weight)
                uses.subtract(batch.keys)
                for key in batch.keys:
                    if not uses[key]:
                        del ready[key]

    def _order(self) -> str:
        """A hash of all that decides which batch comes when."""
        config = self._maker.config
        listed = [(segment.key, segment.frames, segment.shard) for segment in self._segments]
        decisive = (listed, config.seed, config.batch_size, config.crop_frames, self._ranks)
        return hashlib.sha256(repr(decisive).encode()).hexdigest()


def striped(windows: Sequence[Window], rank: int, ranks: int) -> list[Scheduled]:
    """Every `ranks`-th batch; the last round is filled with the last batch at weight 0."""
    batches = [Scheduled(number, keys, 1.0) for number, window in enumerate(windows) for keys in window.batches]
    filler = replace(batches[-1], weight=0.0)
    batches += [filler] * (-len(batches) % ranks)
    return batches[rank::ranks]

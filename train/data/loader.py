"""Batches for a run: which songs train and which validate, samples from shards or memory, and where the run stands."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, tee
from typing import get_args

import psutil

from common.errors import UserError
from common.texts.lyrics import LyricsContent
from shards.held_out import validation_songs
from shards.location import ShardLocation
from shards.manifest import Manifest
from shards.reader import read_shard
from shards.schema import OPTIONAL, REDUCED_LYRICS, Sample, SslName, Target
from train.config import TrainingConfig
from train.data.clips import ClipBatch, ClipMaker, target_of
from train.data.plan import WINDOW_SHARDS, Segment, ShardWindow, batches_per_epoch, plan_epoch
from train.data.prefetch import in_order

MEMORY_SHARE = 0.5
"""Shards are kept in memory if they take less than this share of what is free, all processes of a machine together."""


@dataclass(frozen=True)
class Split:
    """Segments of the songs to train on, and one segment of each song to validate on."""

    training: tuple[Segment, ...]
    validation: tuple[Segment, ...]
    transposed: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)
    """By key of a segment to validate on, the same of its song at other pitches."""


def split(manifest: Manifest, fraction: float) -> Split:
    """Divide the songs of a manifest; each validation song is validated on its first segment.

    What was made of a song stays on its side: at other pitches it is trained on, or left out with it.
    """
    segments = [
        Segment(entry.key, entry.song, entry.frames, shard)
        for shard, listed in enumerate(manifest.shards)
        for entry in listed.segments
    ]
    families = {song.key: song.family for song in manifest.songs().values()}
    kept = validation_songs(list(families.values()), fraction)
    best_last = sorted(segments, key=lambda s: (s.song != families[s.song], s.key), reverse=True)
    first = {families[segment.song]: segment for segment in best_last}
    validation = tuple(first[song] for song in sorted(kept))
    return Split(
        training=tuple(segment for segment in segments if families[segment.song] not in kept),
        validation=validation,
        transposed={one.key: _at_other_pitches(one, segments, families) for one in validation},
    )


def _at_other_pitches(given: Segment, segments: Sequence[Segment], families: Mapping[str, str]) -> tuple[Segment, ...]:
    """What was made of a segment; nothing of one whose song was itself made of another."""
    number = given.key.removeprefix(given.song)
    return tuple(
        segment
        for segment in segments
        if segment.song != given.song == families[segment.song] and segment.key == f"{segment.song}{number}"
    )


def check_manifest(manifest: Manifest, config: TrainingConfig) -> None:
    """Raises UserError if these shards cannot train this configuration."""
    target = target_of(config)
    if target not in manifest.targets:
        held = ", ".join(manifest.targets) or "no target"
        raise UserError(
            f"{config.dataset_path}: output_type {config.accompaniment.output_type} needs the target {target}, these "
            f"shards hold {held}. Build them with --targets {target}, or choose another output_type."
        )
    if config.accompaniment.lead_sheet is not None and not lead_sheets(manifest):
        raise UserError(
            f"{config.dataset_path}: accompaniment.lead_sheet needs lead sheets, and no song of these shards has one. "
            "Put KEY_lead_sheet.txt beside songs and run prep build-shards again, or train without."
        )
    if manifest.statistics is None:
        raise UserError(
            f"{config.dataset_path}: no latent statistics in the manifest. Build shards with prep build-shards."
        )


def lead_sheets(manifest: Manifest) -> int:
    """Songs of shards that have a lead sheet."""
    return sum(song.lead_sheet for shard in manifest.shards for song in shard.songs)


def room_in_memory(processes: int = 1) -> int:
    """Bytes of samples that each of so many processes of this machine may keep, by what is free now."""
    return int(MEMORY_SHARE * psutil.virtual_memory().available / processes)


class ShardSamples:
    """Samples of chosen segments, read when asked for; from memory once `remember` found room for all of them."""

    def __init__(
        self,
        place: ShardLocation,
        manifest: Manifest,
        target: Target,
        *,
        features: bool = False,
        lyrics: LyricsContent = "words",
    ) -> None:
        self._place, self._manifest = place, manifest
        wanted = {target, *(f"{target}_{network}" for network in get_args(SslName) if features)}
        wanted |= {name for name, content in REDUCED_LYRICS.items() if content == lyrics}
        self._without = OPTIONAL - wanted
        self._kept: dict[str, Sample] | None = None

    def remember(self, keys: AbstractSet[str], *, room: int) -> bool:
        """Read and keep the samples of `keys` if the shards take less than `room` bytes; whether they did."""
        fits = sum(entry.bytes for entry in self._manifest.shards) < room
        if fits:
            self._kept = self.load(range(len(self._manifest.shards)), keys)
        return fits

    def load(self, shards: Sequence[int], keys: AbstractSet[str]) -> dict[str, Sample]:
        """Samples of `keys`, all of them in `shards`, by key; without what this run does not use.

        Raises UserError for a key that is not in its shard.
        """
        if self._kept is not None:
            return {key: self._kept[key] for key in keys}
        found = {}
        for entry in (self._manifest.shards[shard] for shard in shards):
            samples = read_shard(self._place, entry, without=self._without)
            found |= {sample.meta.key: sample for sample in samples if sample.meta.key in keys}
        lost = sorted(keys - found.keys())
        if lost:
            raise UserError(
                f"{self._place}: {lost[0]} is not in its shard, though the manifest lists it. Run prep verify."
            )
        return found


@dataclass(frozen=True)
class ScheduledBatch:
    """A batch in one rank's order of an epoch."""

    window: int
    keys: tuple[str, ...]
    weight: float  # 0 only fills up the last round, so that all ranks take as many steps


@dataclass(frozen=True)
class RankWindow:
    """A window of an epoch as one rank goes through it: what it reads, then its batches."""

    epoch: int
    reads: Mapping[int, frozenset[str]]  # shard -> samples of it that this rank will need
    batches: tuple[ScheduledBatch, ...]


class BatchLoader:
    """Epoch after epoch of clips, `length` batches in all; counts those handed out, and goes on from any count.

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
        size = maker.config.batch_size
        batches = batches_per_epoch(segments, batch_size=size, crop_frames=maker.crop_frames)
        self.per_epoch = -(-batches // ranks)
        self.handed = 0
        self._epoch, self._done = 0, 0  # epochs behind the next batch, and batches of its own

    @property
    def epoch(self) -> int:
        """Epoch of the batch handed out last."""
        return self._epoch if self._done else max(0, self._epoch - 1)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[ClipBatch]:
        read_ahead, windows = tee(self._rank_windows())
        tasks = (
            partial(self._samples.load, (shard,), keys) for window in read_ahead for shard, keys in window.reads.items()
        )
        ready: dict[str, Sample] = {}
        with closing(in_order(tasks, workers=self._maker.config.num_workers, ahead=WINDOW_SHARDS)) as loaded:
            for window in windows:
                for _ in window.reads:
                    ready |= next(loaded)
                for batch in window.batches:
                    samples = [ready.pop(key) for key in batch.keys]
                    clips = self._maker.cut(samples, epoch=window.epoch, weight=batch.weight)
                    self.handed += 1
                    self._epoch, self._done = divmod(self._epoch * self.per_epoch + self._done + 1, self.per_epoch)
                    yield clips

    def state_dict(self) -> dict[str, int | str]:
        """Where the run stands in its data."""
        state = {"handed": self.handed, "epoch": self._epoch, "done": self._done, "ranks": self._ranks}
        return state | {"order": self._order_hash()}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go on from a state. Raises UserError if these are other data or batches, or other ranks amid an epoch."""
        if state["order"] != self._order_hash():
            raise UserError(
                "the songs, batch_size or crop changed since the checkpoint, so its place in the data means nothing "
                "here. Resume with what it was made with, or start anew without --resume."
            )
        if state["ranks"] != self._ranks and state["done"]:
            raise UserError(
                f"the checkpoint stands amid an epoch, after {state['done']} batches on each of {state['ranks']} "
                f"devices; now there are {self._ranks}, which can only go on from the start of an epoch. "
                f"Resume with --devices {state['ranks']}."
            )
        self.handed, self._epoch, self._done = (int(state[name]) for name in ("handed", "epoch", "done"))

    def _rank_windows(self) -> Iterator[RankWindow]:
        """This rank's way through the data from where it stands to the end of the run."""
        done, left = self._done, self._length - self.handed
        for epoch in count(self._epoch):
            for window in self._epoch_from(epoch, done):
                if left <= 0:
                    return
                yield replace(window, batches=window.batches[:left])
                left -= len(window.batches)
            done = 0

    def _epoch_from(self, epoch: int, done: int) -> Iterator[RankWindow]:
        """This rank's part of an epoch after its first `done` batches."""
        config = self._maker.config
        windows = plan_epoch(
            self._segments,
            seed=config.seed,
            epoch=epoch,
            batch_size=config.batch_size,
            crop_frames=self._maker.crop_frames,
        )
        schedule = striped(windows, self._rank, self._ranks)[done:]
        shard_of = {segment.key: segment.shard for segment in self._segments}
        wanted: dict[int, set[str]] = {}
        for key in (key for batch in schedule for key in batch.keys):
            wanted.setdefault(shard_of[key], set()).add(key)
        for number, window in enumerate(windows):
            reads = {shard: frozenset(wanted[shard]) for shard in window.shards if shard in wanted}
            yield RankWindow(epoch, reads, tuple(batch for batch in schedule if batch.window == number))

    def _order_hash(self) -> str:
        """A hash of all that decides which batch comes when."""
        config = self._maker.config
        listed = [(segment.key, segment.frames, segment.shard) for segment in self._segments]
        decided = (listed, config.seed, config.batch_size, self._maker.crop_frames)
        return hashlib.sha256(repr(decided).encode()).hexdigest()


def striped(windows: Sequence[ShardWindow], rank: int, ranks: int) -> list[ScheduledBatch]:
    """Every `ranks`-th batch; the last round is filled with the last batch at weight 0."""
    batches = [ScheduledBatch(number, keys, 1.0) for number, window in enumerate(windows) for keys in window.batches]
    filler = replace(batches[-1], weight=0.0)
    batches += [filler] * (-len(batches) % ranks)
    return batches[rank::ranks]

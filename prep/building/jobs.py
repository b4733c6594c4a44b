"""What a worker is given and what it gives back, whoever starts it: one song through the networks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.bases import BaseOrigin
from common.system import give_memory_back
from models.separator import SeparatorFiles, open_separator
from prep.building.identity import HashedSong
from prep.building.segment_cache import SegmentCache
from prep.config import PrepConfig
from prep.encoding.encode import EncodedSegment, SongEncoder, open_encoder
from prep.encoding.separated import SongSeparator, VocalSeparator, VocalStore
from prep.encoding.separator_command import CommandSeparator, SeparatorCommand
from shards.rejection import Rejection, SongError
from shards.schema import ARRAYS, LATENTS, SslName
from shards.writer import rejection_of

if TYPE_CHECKING:  # it imports transformers, which few builds need
    from prep.encoding.ssl import SslEncoder


@dataclass(frozen=True)
class SongJob:
    """A song to encode, and where its segments go."""

    hashed: HashedSong
    cached: SegmentCache
    finished: frozenset[int] = frozenset()
    """Segments that are there already."""
    features_alone: bool = False
    """Of its vocal only the features are wanted: shards hold the rest."""
    vocal_identity: str | None = None
    """Under which the vocal of a full song is kept."""


@dataclass(frozen=True, order=True)
class EncodedPart:
    """One part of one segment that went through the codec."""

    song: str
    part: str
    segment: int


@dataclass(frozen=True)
class SegmentResult:
    """A segment that was encoded and cached, or a song that cannot be used."""

    key: str
    """Of the song."""
    rejection: Rejection | None = None
    """Why it cannot be used."""
    segment: int = 0
    encoded: tuple[EncodedPart, ...] = ()
    seconds: float = 0.0
    """Length of the segment."""
    is_last: bool = True
    """Nothing more comes of this job."""


@dataclass(frozen=True)
class EncodeSetup:
    """What every worker opens: settings, and the folders of the networks."""

    config: PrepConfig
    checkpoint: Path
    separator: SeparatorFiles | SeparatorCommand | None
    devices: tuple[str, ...]
    """Songs and workers are dealt out over these."""
    ssl: tuple[tuple[SslName, Path], ...] = ()
    """Networks for SSL features, and their folders."""
    base: BaseOrigin = field(default_factory=BaseOrigin)
    """As which base model the manifest names the checkpoint."""
    store: VocalStore | None = None
    """Where separated vocals are kept."""

    def open(self, device: str) -> SongEncoder:
        """The networks on one device; the separator only once a full song needs it."""
        give_memory_back()
        codec = open_encoder(self.checkpoint, self.config.encode, device)
        ssl = [self._open_ssl(name, folder, device) for name, folder in self.ssl]
        return SongEncoder(self.config, codec, self._separator(torch.device(device)), ssl=ssl)

    def _open_ssl(self, name: SslName, folder: Path, device: str) -> "SslEncoder":
        from prep.encoding.ssl import SslEncoder, open_ssl_network

        return SslEncoder(name, open_ssl_network(name, folder).to(torch.device(device)))

    def _separator(self, device: torch.device) -> SongSeparator | None:
        if self.separator is None:
            return None
        return SongSeparator(self.separator.name, partial(self._open_separator, self.separator, device), self.store)

    def _open_separator(self, found: SeparatorFiles | SeparatorCommand, device: torch.device) -> VocalSeparator:
        if isinstance(found, SeparatorCommand):
            return CommandSeparator(found, self.config.stems)
        return open_separator(found, device, overlap=self.config.separator.overlap)


def encode_song(job: SongJob, encoder: SongEncoder) -> Iterator[SegmentResult]:
    """Encode what is missing of one song and cache each segment as soon as it is made.

    Raises UserError where the disk refuses one; a song that cannot be used is a rejection.
    """
    song = job.hashed.song
    try:
        with encoder.prepare(song, job.cached.folder, job.vocal_identity) as prepared:
            job.hashed.check_unchanged()
            numbers = range(len(prepared.segments))
            missing = [number for number in numbers if number not in job.finished]
            for number in missing:
                make = encoder.vocal_features if job.features_alone else encoder.encode
                segment = make(prepared, number)
                job.cached.write(number, segment, segments=len(numbers), sound_sha256=prepared.sound_sha256)
                yield _result(song.key, number, segment, is_last=number == missing[-1])
    except SongError as error:
        yield SegmentResult(song.key, rejection_of(song.key, error))


def _result(key: str, number: int, segment: EncodedSegment, *, is_last: bool) -> SegmentResult:
    latents = [name for name in segment.arrays if ARRAYS[name][1] == LATENTS]
    encoded = tuple(EncodedPart(key, name, number) for name in latents)
    return SegmentResult(key, None, number, encoded, segment.audio.seconds, is_last)

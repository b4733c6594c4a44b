"""Songs into shards: tars of about `shard_samples` samples, a manifest over them, a list of what was rejected.

Files wait below .build until all are whole, then take their places, the manifest last (shards/commit.py).
Same songs in the same order, same bytes.
C latent channels, H latent rows.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from common.bases import BaseOrigin, BaseSpec, recorded_spec
from common.canonical import canonical_json, sha256_of_file, unicode_text
from common.files import whole_file
from shards.commit import BUILD_FOLDER, commit
from shards.fingerprint import Fingerprint
from shards.lock import remove_if_empty
from shards.manifest import Manifest, SegmentEntry, ShardEntry, SongEntry, audio_identity, text_identity, totals_of
from shards.rejection import Rejection, SongError
from shards.schema import Sample, SegmentMeta, Target
from shards.statistics import SungSums, latent_statistics, vocal_level
from shards.tar import append_sample, open_tar

SHARD_SAMPLES = 64


class ShardWriter:
    """Writes `out`: `with ShardWriter(...) as writer: writer.add(samples of a song)`.

    Leaving the block well writes rejected.jsonl and manifest.json; leaving it by an error leaves both as they were.
    `silence` [C, H] is the latent of digital silence; without it the manifest has no latent statistics.
    With `append`, the manifest that lies in `out`, its shards stay as they are (but for those given to `rewrite`) and
    new ones follow. Without, what was there is replaced, and of it only files that its manifest names are removed.
    """

    def __init__(
        self,
        out: Path,
        *,
        fingerprint: Fingerprint,
        targets: Sequence[Target],
        base: BaseOrigin | None = None,
        shard_samples: int = SHARD_SAMPLES,
        silence: np.ndarray | None = None,
        append: Manifest | None = None,
    ) -> None:
        self._out, self._shard_samples, self._silence = out, shard_samples, silence
        self._fingerprint = append.fingerprint.joined(fingerprint) if append else fingerprint
        self._targets, self._base, self._spec = tuple(targets), base, recorded_spec(base)
        self._done: list[ShardEntry] = list(append.shards) if append else []
        self._rejections: list[Rejection] = []
        self._staged: list[Path] = []
        self._open: _Shard | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop(kind, error, trace)
            return
        try:
            self._close_shard()
        except BaseException as failure:
            self._drop(type(failure), failure, failure.__traceback__)
            raise
        commit(self._out, self.manifest() if self._done else None, "".join(_line(row) for row in self.rejections))
        remove_if_empty(self._out / BUILD_FOLDER)

    def add(self, samples: Sequence[Sample]) -> None:
        """Add the segments of one song; they lie together in one shard."""
        if self._open is not None and self._open.samples + len(samples) > self._shard_samples:
            self._close_shard()
        if self._open is None:
            last = max((int(shard.name[6:12]) for shard in self._done), default=-1)
            self._open = self._shard(f"shard-{last + 1:06d}.tar")
        self._open.add(samples)

    def rewrite(self, name: str, samples: Iterable[Sample]) -> None:
        """Put other samples, song by song, in the place of an older shard; without any it is removed."""
        assert self._open is None, "older shards are rewritten before new ones are begun"
        at = next(index for index, shard in enumerate(self._done) if shard.name == name)
        self._open = self._shard(name)
        for _, song in groupby(samples, key=lambda sample: sample.meta.song):
            self._open.add(list(song))
        entry, self._open = self._open.close(), None
        self._done[at : at + 1] = [entry] if entry.samples else []

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Every song that is not in the shards, by key."""
        return tuple(sorted(self._rejections, key=lambda row: row.key))

    def reject(self, rejection: Rejection) -> None:
        """Note a song that is not in the shards."""
        self._rejections.append(rejection)

    @contextmanager
    def rejecting(self, key: str) -> Generator[None]:
        """A SongError in the block becomes song `key`'s row in rejected.jsonl; other errors are no song's fault."""
        try:
            yield
        except SongError as error:
            self.reject(rejection_of(key, error))

    def manifest(self) -> Manifest:
        """The manifest over the shards that are finished."""
        shards = tuple(self._done)
        return Manifest(
            version=self._spec.shards_version,
            shards=shards,
            fingerprint=self._fingerprint,
            base=self._base,
            totals=totals_of(shards),
            targets=self._targets,
            vocal_lufs=vocal_level(shards),
            statistics=None if self._silence is None else latent_statistics(self._silence, shards),
        )

    def _close_shard(self) -> None:
        if self._open is not None:
            self._done.append(self._open.close())
            self._open = None

    def _shard(self, name: str) -> "_Shard":
        path = self._out / BUILD_FOLDER / name
        self._staged.append(path)
        return _Shard(path, self._spec, self._silence)

    def _drop(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._open is not None:
                self._open.drop(kind, error, trace)
        finally:
            for path in self._staged:
                path.unlink(missing_ok=True)
            remove_if_empty(self._out / BUILD_FOLDER)


def rejection_of(key: str, error: SongError) -> Rejection:
    """The row of song `key`, from what went wrong with it."""
    return Rejection(key=key, reason=error.reason, detail=unicode_text(str(error)))


class _Shard:
    """A tar that grows below .build; `path` is where it waits once it is whole."""

    def __init__(self, path: Path, spec: BaseSpec, silence: np.ndarray | None) -> None:
        self._path, self._spec = path, spec
        self._sung = None if silence is None else SungSums(silence)
        self._segments: list[SegmentEntry] = []
        self._songs: list[SongEntry] = []
        with ExitStack() as files:
            partial = files.enter_context(whole_file(path, partial=path.with_suffix(".part")))
            self._tar = files.enter_context(open_tar(files.enter_context(partial.open("wb"))))
            self._files = files.pop_all()

    @property
    def samples(self) -> int:
        return len(self._segments)

    def add(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            self._segments.append(_segment_entry(sample.meta, append_sample(self._tar, sample, self._spec)))
            if self._sung is not None:
                self._sung.add(sample)
        self._songs.append(_song_entry(samples[0]))

    def close(self) -> ShardEntry:
        """Finish the tar."""
        self._files.close()
        return ShardEntry(
            name=self._path.name,
            samples=self.samples,
            frames=sum(segment.frames for segment in self._segments),
            bytes=self._path.stat().st_size,
            sha256=sha256_of_file(self._path),
            segments=tuple(self._segments),
            songs=tuple(self._songs),
            vocal=None if self._sung is None else self._sung.moments(),
        )

    def drop(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Remove the unfinished tar."""
        self._files.__exit__(kind, error, trace)


def _line(rejection: Rejection) -> str:
    return canonical_json(rejection.model_dump(mode="json"))


def _segment_entry(meta: SegmentMeta, digest: str) -> SegmentEntry:
    return SegmentEntry(
        key=meta.key,
        song=meta.song,
        frames=meta.frames,
        seconds=meta.seconds,
        vocal_lufs=meta.vocal_lufs,
        sha256=digest,
    )


def _song_entry(first: Sample) -> SongEntry:
    meta = first.meta
    return SongEntry(
        key=meta.song,
        name=meta.name,
        audio_sha256=audio_identity(meta.sources, meta.semitones),
        text_sha256=text_identity(meta.prompt, meta.lyrics, meta.lead_sheet_sha256),
        sound_sha256=meta.sound_sha256,
        notes=tuple(note.sentence for note in meta.stems),
        lead_sheet=first.lead_sheet is not None,
        vocal_features=first.vocal_features is not None,
        parent=meta.parent,
        semitones=meta.semitones,
    )

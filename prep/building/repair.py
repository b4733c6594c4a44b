"""Damaged shards made whole: from the songs, to the bytes that they had, or else without the samples that are lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from common.bases import BaseSpec
from common.config import check_config
from common.errors import UserError
from common.progress import progress
from prep.building.augmented import augmented
from prep.building.build import equip, fingerprint_of
from prep.building.cache import CACHE_FILE, remember_manifest, restore_manifest
from prep.building.identity import HashedSong, hash_song, sound_changes, sound_identity, text_changes
from prep.building.jobs import EncodeSetup, SongJob
from prep.building.sample import make_samples
from prep.building.segment_cache import SegmentCache
from prep.building.separation import store_for, vocal_identity
from prep.building.workers import run_jobs, torch_threads
from prep.config import PrepConfig
from prep.encoding.text import TextMaker, open_texts
from prep.sources.scan import Scan, scan
from shards.fingerprint import Fingerprint
from shards.lock import build_folder, sweep
from shards.manifest import MANIFEST_FILE, Manifest, ShardEntry
from shards.reader import read_manifest, read_rejections
from shards.salvage import salvage
from shards.schema import Sample
from shards.verify import verify_shard
from shards.writer import ShardWriter


@dataclass(frozen=True)
class Repair:
    """What was mended."""

    shards: tuple[str, ...]
    """Names of the shards that were damaged."""
    dropped: tuple[str, ...] = ()
    """Keys of samples that are no longer there."""
    manifest: bool = False
    """The manifest was another build's."""


def drop_damaged(out: Path) -> Repair:
    """Leave out what is damaged; a song of which one segment is lost is left out whole, so that it is built again.

    Raises UserError where nothing would be left.
    """
    with build_folder(out) as room:
        restored = restore_manifest(room, out)
        manifest = read_manifest(out)
        spec = manifest.spec
        damaged = _damaged(out, manifest)
        kept = {entry.name: _whole_songs(out, entry, spec) for entry in damaged}
        lost = [key for entry in damaged for key in _lost(entry, kept[entry.name])]
        if len(lost) == manifest.totals.segments:
            raise UserError(f"{out}: no song is whole. Make all anew: prep build-shards RAW {out} --rebuild")
        with _writer(out, manifest) as writer:
            for entry in damaged:
                songs = kept[entry.name]
                whole = salvage(out, entry, spec)
                writer.rewrite(entry.name, (sample for sample in whole if sample.meta.song in songs))
        _tidy(room, out)
    return Repair(tuple(entry.name for entry in damaged), tuple(lost), restored)


def rebuild_damaged(
    out: Path, raw: Path, *, checkpoint: str, devices: Sequence[str], ssl_folder: Path | None, workers: int | None
) -> Repair:
    """Make damaged shards again from the songs, with the settings that stand in the manifest.

    A manifest of another build is no truth to mend by: where prep remembers its own, that is put back first.
    Raises UserError where songs, networks or code are not those of then, and leaves all as it was.
    """
    with build_folder(out) as room:
        restored = restore_manifest(room, out)
        manifest = read_manifest(out)
        damaged = _damaged(out, manifest)
        if not damaged:
            _tidy(room, out)
            return Repair((), manifest=restored)
        found = scan(raw)
        setup = _setup_of(out, manifest, found, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder)
        songs = _songs_of(damaged, augmented(found, setup.config, manifest), raw, out)
        with torch_threads(setup.config.threads_per_worker), _writer(out, manifest) as writer:
            fingerprint = manifest.fingerprint
            caches = {key: SegmentCache(room, sound_identity(hashed, fingerprint)) for key, hashed in songs.items()}
            missing = [key for key, cached in caches.items() if not cached.is_whole()]
            setup = replace(setup, store=store_for([songs[key] for key in missing], setup.config, fingerprint))
            _encode([_job(songs[key], caches[key], setup.config, fingerprint) for key in missing], setup, workers)
            texts = open_texts(setup.checkpoint, setup.config.text, setup.devices[0])
            for entry in damaged:
                writer.rewrite(entry.name, _samples(entry, songs, caches, texts))
            _check_same(manifest, writer.manifest(), damaged)
        _tidy(room, out)
    return Repair(tuple(entry.name for entry in damaged), manifest=restored)


def _tidy(room: Path, out: Path) -> None:
    remember_manifest(room, out)
    sweep(room, keep=[CACHE_FILE, MANIFEST_FILE])


def _damaged(out: Path, manifest: Manifest) -> list[ShardEntry]:
    return [entry for entry in manifest.shards if verify_shard(out, manifest, entry)]


def _whole_songs(out: Path, entry: ShardEntry, spec: BaseSpec) -> set[str]:
    """Songs of which every segment is as the manifest says."""
    found = {sample.meta.key for sample in salvage(out, entry, spec)}
    return {
        song
        for song, segments in groupby(entry.segments, key=lambda segment: segment.song)
        if all(segment.key in found for segment in segments)
    }


def _lost(entry: ShardEntry, songs: set[str]) -> Iterator[str]:
    return (segment.key for segment in entry.segments if segment.song not in songs)


def _writer(out: Path, manifest: Manifest) -> ShardWriter:
    silence = None if manifest.statistics is None else np.array(manifest.statistics.silence)
    writer = ShardWriter(
        out,
        fingerprint=manifest.fingerprint,
        targets=manifest.targets,
        base=manifest.base,
        silence=silence,
        append=manifest,
    )
    for rejection in read_rejections(out):
        writer.reject(rejection)
    return writer


def _setup_of(
    out: Path, manifest: Manifest, found: Scan, *, checkpoint: str, devices: Sequence[str], ssl_folder: Path | None
) -> EncodeSetup:
    """The setup that made these shards. Raises UserError where anything in it is not as it was."""
    settings = {name: value for name, value in manifest.fingerprint.settings.items() if name != "device"}
    try:
        PrepConfig.check_file(settings)
    except ValueError as error:
        raise UserError(f"{out / MANIFEST_FILE}: {error}") from None
    config = check_config(PrepConfig, settings, str(out / MANIFEST_FILE))
    setup = equip(found, config, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder)
    now = fingerprint_of(setup)
    if changes := [*sound_changes(manifest.fingerprint, now), *text_changes(manifest.fingerprint, now)]:
        raise UserError(f"{out}: cannot be made again as it was: {changes[0]}. Use what made it, or --rebuild.")
    return setup


def _songs_of(damaged: Sequence[ShardEntry], found: Scan, raw: Path, out: Path) -> dict[str, HashedSong]:
    """The songs of damaged shards, by key. Raises UserError where one is not as it was."""
    present, songs = {song.key: song for song in found.songs}, dict[str, HashedSong]()
    for entry in (song for shard in damaged for song in shard.songs):
        if entry.key not in present:
            raise UserError(_strange(entry.name, "is not in", raw, out))
        songs[entry.key] = hash_song(present[entry.key], raw)
        if not (songs[entry.key].sounds_like(entry) and songs[entry.key].reads_like(entry)):
            raise UserError(_strange(entry.name, "is another song now in", raw, out))
    return songs


def _strange(name: str, what: str, raw: Path, out: Path) -> str:
    return (
        f"{name}, which {out / MANIFEST_FILE} names, {what} {raw}. Give the folder that it was built from; or make all "
        f"anew: prep build-shards {raw} {out} --rebuild"
    )


def _job(hashed: HashedSong, cached: SegmentCache, config: PrepConfig, fingerprint: Fingerprint) -> SongJob:
    return SongJob(hashed, cached, cached.finished(), vocal_identity=vocal_identity(hashed, config, fingerprint))


def _encode(jobs: Sequence[SongJob], setup: EncodeSetup, workers: int | None) -> None:
    if not jobs:
        return
    with progress(len(jobs), "encode", "songs") as done:
        for result in run_jobs(jobs, setup, workers=workers):
            if result.rejection:
                raise UserError(f"{result.key}: {result.rejection.detail}")
            if result.is_last:
                done.update(note=result.key)


def _samples(
    entry: ShardEntry, songs: dict[str, HashedSong], caches: dict[str, SegmentCache], texts: TextMaker
) -> Iterator[Sample]:
    for key in (song.key for song in entry.songs):
        cached, hashed = caches[key], songs[key]
        lyrics = texts.lyrics(hashed.song.lyrics)
        yield from make_samples(hashed, cached.read(), texts, lyrics, sound_sha256=cached.sound_sha256)


def _check_same(manifest: Manifest, made: Manifest, damaged: Sequence[ShardEntry]) -> None:
    again = {entry.name: entry.sha256 for entry in made.shards}
    for entry in damaged:
        if again[entry.name] != entry.sha256:
            raise UserError(
                f"{entry.name}: made again it is {again[entry.name][:8]}, the manifest says {entry.sha256[:8]}: "
                "another machine or library rounds otherwise. Build all shards anew with --rebuild."
            )

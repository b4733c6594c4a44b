"""Shards as train and infer read them: the manifest first, then only the tars that it names."""

from collections.abc import Iterator
from pathlib import Path

from common.config import check_config, read_json
from common.errors import UserError
from shards.schema import MANIFEST_FILE, Manifest, Sample, ShardEntry
from shards.tar import read_samples


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards. Raises UserError where there is none, or another program's."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST_FILE} here. Make shards with: prep build-shards raw/ {folder}")
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; a manifest is a JSON object.")
    return check_config(Manifest, values, str(path))


def read_shard(folder: Path, entry: ShardEntry) -> Iterator[Sample]:
    """The samples of one shard, in order, one at a time."""
    return read_samples(folder / entry.name)


def read_song(folder: Path, key: str) -> list[Sample]:
    """The segments of a song, in order, by the song's key; or the one sample of that key.

    Opens only the shards that hold it. Raises UserError where there is none.
    """
    manifest = read_manifest(folder)
    segments = [segment for shard in manifest.shards for segment in shard.segments]
    wanted = {segment.key for segment in segments if segment.song == key} or {
        segment.key for segment in segments if segment.key == key
    }
    if not wanted:
        raise UserError(f"{folder}: no song {key} among {manifest.totals.songs}. prep inspect lists them.")
    holding = [shard for shard in manifest.shards if any(segment.key in wanted for segment in shard.segments)]
    found = [sample for shard in holding for sample in read_shard(folder, shard) if sample.meta.key in wanted]
    return sorted(found, key=lambda sample: sample.meta.segment)

"""Shards as train and infer read them: the manifest first, then only the tars that it names."""

import hashlib
import io
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from common.config import check_config, parse_json, read_json
from common.errors import UserError
from shards.location import ShardLocation, address, fetch
from shards.manifest import MANIFEST_FILE, Manifest, ShardEntry
from shards.rejection import REJECTED_FILE, Rejection
from shards.schema import Sample
from shards.tar import read_samples, samples_in


def read_manifest(location: ShardLocation) -> Manifest:
    """The manifest of shards. Raises UserError where there is none, or another program's."""
    if isinstance(location, Path) and not (location / MANIFEST_FILE).is_file():
        raise UserError(f"{location}: no {MANIFEST_FILE} here. Make shards with: prep build-shards raw/ {location}")
    where = address(location, MANIFEST_FILE)
    values = read_json(Path(where)) if isinstance(location, Path) else parse_json(fetch(location, MANIFEST_FILE), where)
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; a manifest is a JSON object.")
    return check_config(Manifest, values, where)


def read_rejections(folder: Path) -> list[Rejection]:
    """The songs that the last build could not use, by key; none where no build has been.

    Raises UserError for a list that is damaged.
    """
    path = folder / REJECTED_FILE
    if not path.is_file():
        return []
    rows = path.read_bytes().split(b"\n")
    return [check_config(Rejection, parse_json(row, str(path)), str(path)) for row in rows if row]


def read_shard(
    location: ShardLocation, entry: ShardEntry, *, without: AbstractSet[str] = frozenset()
) -> Iterator[Sample]:
    """The samples of one shard, in order, one at a time, `without` some of the arrays that a sample need not have.

    Raises UserError for one that is missing, damaged, or of another size than the manifest says; one from an address
    must have its hash too. (In a folder only `prep verify` looks at hashes: it takes longer than all the rest.)
    """
    where = address(location, entry.name)
    if isinstance(location, Path):
        if (location / entry.name).is_file():
            _check(where, "bytes", (location / entry.name).stat().st_size, entry.bytes)
        yield from read_samples(location / entry.name, without=without)
        return
    content = fetch(location, entry.name, size=entry.bytes)
    _check(where, "bytes", len(content), entry.bytes)
    _check(where, "sha256", hashlib.sha256(content).hexdigest(), entry.sha256)
    yield from samples_in(io.BytesIO(content), where, without=without)


def _check(where: str, what: str, found: object, listed: object) -> None:
    if found != listed:
        raise UserError(f"{where}: its {what} are {found}, the manifest says {listed}. Copy the shards again.")


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

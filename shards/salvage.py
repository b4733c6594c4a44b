"""The samples of a damaged shard that are still what the manifest says."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from common.bases import BaseSpec
from common.errors import UserError
from shards.manifest import ShardEntry
from shards.schema import ARRAYS, Sample, check_sample
from shards.tar import JSON, LEAD_SHEET, decode_sample, name_and_length, sample_sha256


def salvage(folder: Path, entry: ShardEntry, spec: BaseSpec) -> Iterator[Sample]:
    """The whole samples of a shard, in order, whatever lies between them; none where the file is missing."""
    digests = {segment.key: segment.sha256 for segment in entry.segments}
    key, fields = "", dict[str, bytes]()
    for name, content in _members(folder / entry.name):
        stem, _, field = name.partition(".")
        if stem != key:
            yield from _whole(key, fields, digests, spec)
            key, fields = stem, {}
        fields |= {name: content for name in (JSON, LEAD_SHEET, *ARRAYS) if field in (name, f"{name}.npy")}
    yield from _whole(key, fields, digests, spec)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every member whose header is whole: a broken header is passed over block by block."""
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        while header := file.read(tarfile.BLOCKSIZE):
            try:
                name, length = name_and_length(header)
            except (tarfile.TarError, ValueError):
                continue
            begin = file.tell()
            if length and begin + length <= size:
                yield name, file.read(length)
                file.seek(begin + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)


def _whole(key: str, fields: dict[str, bytes], digests: dict[str, str], spec: BaseSpec) -> Iterator[Sample]:
    if key not in digests:
        return
    try:
        sample = decode_sample("", key, dict(fields))
    except UserError:
        return
    if not check_sample(sample, spec) and sample_sha256(sample) == digests[key]:
        yield sample

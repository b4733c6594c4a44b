"""Whether a folder of shards is what its manifest says."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.canonical import sha256_of_file
from common.errors import UserError
from shards.manifest import MANIFEST_FILE, Manifest, SegmentEntry, ShardEntry, totals_of
from shards.reader import read_manifest
from shards.schema import Sample, check_sample
from shards.statistics import latent_statistics, vocal_level
from shards.tar import read_samples, sample_sha256


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where."""

    shard: str
    sample: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.shard}, {self.sample}: {self.what}" if self.sample else f"{self.shard}: {self.what}"


def verify(folder: Path) -> list[Problem]:
    """Everything that is wrong: hashes, shapes, dtypes, NaN, parts that do not line up, an index that does not fit,
    sums and statistics that are not those of the shards.

    Raises UserError where there is no manifest to check against.
    """
    manifest = read_manifest(folder)
    problems = [problem for entry in manifest.shards for problem in verify_shard(folder, manifest, entry)]
    return problems + [Problem(MANIFEST_FILE, None, what) for what in _wrong_sums(manifest)]


def _wrong_sums(manifest: Manifest) -> Iterator[str]:
    if manifest.totals != totals_of(manifest.shards):
        yield "its totals are not the sums over its shards"
    if manifest.vocal_lufs != vocal_level(manifest.shards):
        yield "its vocal_lufs is not the median over its segments"
    given = manifest.statistics
    if given is not None:
        made = latent_statistics(np.array(given.silence), manifest.shards)
        if made is None or not np.allclose([given.mean, given.std], [made.mean, made.std], rtol=1e-9, atol=1e-12):
            yield "its statistics are not those of its shards"


def verify_shard(folder: Path, manifest: Manifest, entry: ShardEntry) -> list[Problem]:
    """Everything that is wrong with one shard."""
    path = folder / entry.name
    if not path.is_file():
        return [Problem(entry.name, None, "missing")]
    size, digest = path.stat().st_size, sha256_of_file(path)
    problems = []
    if size != entry.bytes:
        problems.append(Problem(entry.name, None, f"holds {size} bytes, the manifest says {entry.bytes}"))
    elif digest != entry.sha256:
        problems.append(Problem(entry.name, None, f"sha256 is {digest[:8]}, the manifest says {entry.sha256[:8]}"))
    return problems + list(_verify_samples(folder, manifest, entry))


def _verify_samples(folder: Path, manifest: Manifest, entry: ShardEntry) -> Iterator[Problem]:
    expected = list(entry.segments)
    try:
        for sample in read_samples(folder / entry.name):
            segment = expected.pop(0) if expected else None
            yield from (Problem(entry.name, sample.meta.key, what) for what in _wrong(manifest, segment, sample))
    except UserError as error:
        yield Problem(entry.name, expected[0].key if expected else None, str(error))
        return
    yield from (Problem(entry.name, segment.key, "missing") for segment in expected)


def _wrong(manifest: Manifest, segment: SegmentEntry | None, sample: Sample) -> Iterator[str]:
    yield from check_sample(sample, manifest.spec)
    found = (sample.meta.key, sample.meta.song, sample.meta.frames)
    indexed = segment and (segment.key, segment.song, segment.frames)
    if found != indexed:
        yield f"the manifest has {indexed} here, the sample is {found}"
    elif segment and (digest := sample_sha256(sample)) != segment.sha256:
        yield f"sha256 is {digest[:8]}, the manifest says {segment.sha256[:8]}"
    elif segment and segment.vocal_lufs != sample.meta.vocal_lufs:
        yield f"its vocal_lufs is {sample.meta.vocal_lufs}, the manifest says {segment.vocal_lufs}"
    if sample.targets.keys() != set(manifest.targets):
        yield f"holds targets {list(sample.targets)}, the manifest says {list(manifest.targets)}"

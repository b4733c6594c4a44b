"""What is remembered below .build from run to run, so that a rerun reads and encodes no song for nothing.

Nothing here decides what a build makes: without these files the same bytes come out, later.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from common.canonical import sha256_of_file
from common.config import Config, check_config, read_json
from common.errors import UserError
from common.files import move_file, whole_file
from shards.manifest import MANIFEST_FILE, Manifest
from shards.reader import read_manifest
from shards.rejection import Reason, SongError

CACHE_FILE = "known.json"
SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was read may change again without a new time: it is read next time too."""
LASTING: frozenset[Reason] = frozenset({"misaligned", "leak", "no_sum", "swapped", "silent", "too_short", "no_vocal"})
"""Reasons that the same sound and settings will meet again."""


class Stamp(NamedTuple):
    """What the system says of a file; equal stamps, equal content."""

    size: int
    changed_ns: int
    touched_ns: int
    """When content, name or rights last changed (on Windows: when it was made)."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file. Raises OSError where it has gone."""
    stat = path.stat()
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class HashedFile(Config):
    """A file that was hashed."""

    stamp: Stamp
    sha256: str


class PastRejection(Config):
    """Why a song was rejected."""

    reason: Reason
    detail: str


class CacheContent(Config):
    """What CACHE_FILE holds."""

    files: dict[str, HashedFile] = Field(default_factory=dict)
    """By path."""
    sounds: dict[str, str] = Field(default_factory=dict)
    """sound_sha256 of rejected duplicates, by the hash over their audio files."""
    rejections: dict[str, PastRejection] = Field(default_factory=dict, alias="flaws")
    """By the identity of the sound (prep/building/identity.py)."""


class BuildCache:
    """Hashes and rejections of earlier runs, and what this run adds to them."""

    def __init__(self, folder: Path) -> None:
        self._path, self._used = folder / CACHE_FILE, dict[str, HashedFile]()
        older = _read(self._path)
        self._files, self.sounds, self._rejections = older.files, dict(older.sounds), dict(older.rejections)

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file, which is read only if its stamp is new. Raises OSError where it cannot be read."""
        name, stamp = str(path.absolute()), stamp_of(path)
        file = self._files.get(name)
        if file is None or file.stamp != stamp:
            now = time.time_ns()
            file = HashedFile(stamp=stamp, sha256=sha256_of_file(path))
            if now - max(stamp.changed_ns, stamp.touched_ns) < SETTLED_NS:
                return file.sha256
        self._used[name] = file
        return file.sha256

    def rejected(self, sound_identity: str) -> SongError | None:
        """Why a sound was rejected before, if it was and would be again."""
        found = self._rejections.get(sound_identity)
        return None if found is None else SongError(found.reason, found.detail)

    def remember_rejection(self, sound_identity: str, reason: Reason, detail: str) -> None:
        """Note why a sound was rejected, where that will last."""
        if reason in LASTING:
            self._rejections[sound_identity] = PastRejection(reason=reason, detail=detail)

    def save(self) -> None:
        """Write all of it; of files only those that this run asked for."""
        content = CacheContent(files=self._used, sounds=self.sounds, flaws=self._rejections)
        with whole_file(self._path) as partial:
            partial.write_text(
                json.dumps(content.model_dump(mode="json", by_alias=True)), encoding="ascii", newline="\n"
            )


def _read(path: Path) -> CacheContent:
    """What a file holds; nothing where it is missing or of another version, for all of it can be found again."""
    try:
        values = read_json(path) if path.is_file() else {}
        return check_config(CacheContent, values, str(path))
    except UserError:
        return CacheContent()


def remember_manifest(room: Path, out: Path) -> None:
    """Keep a copy of the manifest that was just written to `out`."""
    with whole_file(room / MANIFEST_FILE) as partial:
        partial.write_bytes((out / MANIFEST_FILE).read_bytes())


def restore_manifest(room: Path, out: Path) -> bool:
    """Put back the manifest that was remembered where another, or none, has taken its place; whether it was so.

    It is so where some shard is not as the manifest says, and more of them are as the copy says.
    """
    copy = room / MANIFEST_FILE
    if not copy.is_file():
        return False
    remembered, found = check_config(Manifest, read_json(copy), str(copy)), _readable_manifest(out)
    if found is not None and (found == remembered or _fitting(out, found) == len(found.shards)):
        return False
    if _fitting(out, remembered) <= (0 if found is None else _fitting(out, found)):
        return False
    move_file(copy, out / MANIFEST_FILE)
    return True


def _readable_manifest(out: Path) -> Manifest | None:
    try:
        return read_manifest(out)
    except UserError:
        return None


def _fitting(out: Path, manifest: Manifest) -> int:
    """How many shards are as a manifest says."""
    return sum(
        (out / entry.name).is_file() and sha256_of_file(out / entry.name) == entry.sha256 for entry in manifest.shards
    )

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
from shards.reader import read_manifest
from shards.schema import MANIFEST_FILE, Manifest, Reason, SongError

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


class KnownFile(Config):
    """A file that was hashed."""

    stamp: Stamp
    sha256: str


class KnownFlaw(Config):
    """Why a song was rejected."""

    reason: Reason
    detail: str


class Known(Config):
    """The file."""

    files: dict[str, KnownFile] = Field(default_factory=dict)
    """By path."""
    sounds: dict[str, str] = Field(default_factory=dict)
    """sound_sha256 of rejected duplicates, by the hash over their audio files."""
    flaws: dict[str, KnownFlaw] = Field(default_factory=dict)
    """By the identity of the sound (prep/building/identity.py)."""


class Cache:
    """What is known, and what this run adds to it."""

    def __init__(self, folder: Path) -> None:
        self._path, self._used = folder / CACHE_FILE, dict[str, KnownFile]()
        known = _read(self._path)
        self._files, self.sounds, self._flaws = known.files, dict(known.sounds), dict(known.flaws)

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file, which is read only if it is not known. Raises OSError where it cannot be read."""
        name, stamp = str(path.absolute()), stamp_of(path)
        known = self._files.get(name)
        if known is None or known.stamp != stamp:
            now = time.time_ns()
            known = KnownFile(stamp=stamp, sha256=sha256_of_file(path))
            if now - max(stamp.changed_ns, stamp.touched_ns) < SETTLED_NS:
                return known.sha256
        self._used[name] = known
        return known.sha256

    def flaw(self, sound_identity: str) -> SongError | None:
        """Why a sound was rejected before, if it was and would be again."""
        flaw = self._flaws.get(sound_identity)
        return None if flaw is None else SongError(flaw.reason, flaw.detail)

    def remember_flaw(self, sound_identity: str, reason: Reason, detail: str) -> None:
        """Note why a sound was rejected, where that will last."""
        if reason in LASTING:
            self._flaws[sound_identity] = KnownFlaw(reason=reason, detail=detail)

    def save(self) -> None:
        """Write what is known now; of files only those that this run asked for."""
        known = Known(files=self._used, sounds=self.sounds, flaws=self._flaws)
        with whole_file(self._path) as partial:
            partial.write_text(json.dumps(known.model_dump(mode="json")), encoding="ascii", newline="\n")


def _read(path: Path) -> Known:
    """What a file holds; nothing where it is missing or of another version, for all of it can be found again."""
    try:
        values = read_json(path) if path.is_file() else {}
        return check_config(Known, values, str(path))
    except UserError:
        return Known()


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

"""Finished files from .build to their places, all of them or none, the manifest last.

Shards and lists wait below .build until the new manifest is written there too, as COMMIT_FILE. A commit
that is stopped after that is finished by whoever writes next; before it, nothing has happened yet.
"""

from pathlib import Path

from common.canonical import canonical_json
from common.config import check_config, read_json
from common.errors import UserError
from common.files import move_file, whole_file
from shards.manifest import MANIFEST_FILE, Manifest
from shards.reader import read_manifest
from shards.rejection import REJECTED_FILE

BUILD_FOLDER = ".build"
"""Below the folder of shards while something is written there; nobody else reads it."""
COMMIT_FILE = "commit.json"
"""The new manifest, from when all is staged until all is in its place."""


def commit(out: Path, manifest: Manifest | None, rejected: str) -> None:
    """Bring staged shards, rejected.jsonl and the manifest to their places; without a manifest only the list.

    Shards that the manifest before named and this one does not are removed; no other file is.
    """
    room = out / BUILD_FOLDER
    _write(room / REJECTED_FILE, rejected)
    if manifest is None:
        move_file(room / REJECTED_FILE, out / REJECTED_FILE)
    else:
        _write(room / COMMIT_FILE, canonical_json(manifest.model_dump(mode="json"), indent=1))
        settle(out)


def settle(out: Path) -> None:
    """Finish a commit whose new manifest is written, or drop what was staged for one whose is not.

    Raises UserError where that manifest is damaged; nothing has moved then.
    """
    room = out / BUILD_FOLDER
    pending = room / COMMIT_FILE
    if not pending.is_file():
        for staged in [*room.glob("shard-*"), room / REJECTED_FILE]:
            staged.unlink(missing_ok=True)
        return
    named = {shard.name for shard in check_config(Manifest, read_json(pending), str(pending)).shards}
    for name in (*sorted(named), REJECTED_FILE):
        if (room / name).exists():
            move_file(room / name, out / name)
    for name in _shards_named_in(out) - named:
        (out / name).unlink(missing_ok=True)
    move_file(pending, out / MANIFEST_FILE)


def _shards_named_in(out: Path) -> set[str]:
    """Shards of the build that lies in `out`; none where its manifest is gone or unreadable, for then we know none."""
    try:
        return {shard.name for shard in read_manifest(out).shards}
    except UserError:
        return set()


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")

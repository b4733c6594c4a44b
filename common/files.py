"""Files that appear whole or not at all."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from common.errors import UserError
from common.system import OPENS_FOLDERS

PROBE_BYTES = 4096


@contextmanager
def whole_file(path: Path, *, partial: Path | None = None) -> Generator[Path]:
    """Give a name to write to; when the block ends well, that file is flushed to disk and renamed to `path`.

    `partial` is the temporary name (by default a hidden neighbour of `path`; it must lie on the same disk). A block
    that fails leaves `path` as it was and removes the partial file.
    Raises UserError where the disk refuses (full, no permission, no such folder).
    """
    written = partial or path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        yield written
        flush(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        written.replace(path)
        flush(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):  # a name that the disk refuses has no file either
            written.unlink()


def cache_folder() -> Path:
    """Where Backline keeps what can be made again: BACKLINE_CACHE, by default ~/.cache/backline.

    Raises UserError where neither tells, since there is no home folder.
    """
    try:
        if own := os.environ.get("BACKLINE_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "backline"
    except RuntimeError:
        raise UserError("there is no home folder to keep a cache in. Name a folder in BACKLINE_CACHE.") from None


def check_writable(folder: Path, *, needed_bytes: int = 0) -> None:
    """Try whether files can be put into `folder`, which need not be there yet; nothing is left behind.

    For use before long work. Raises UserError where the disk refuses, or has less room than `needed_bytes`.
    """
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise UserError(f"{folder}: cannot be written ({there} is a file, not a folder). Name another folder.")
        with TemporaryDirectory(prefix=".backline-", dir=there) as trial:
            probe = Path(trial, folder.relative_to(there), "probe")
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(bytes(PROBE_BYTES))
            flush(probe)
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). Name another folder.") from error
    if free < needed_bytes:
        raise UserError(
            f"{folder}: the results take {needed_bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free. "
            "Make room, or name another folder."
        )


def move_file(staged: Path, path: Path) -> None:
    """Rename a whole file on the same disk to its place, for good. Raises UserError where the disk refuses."""
    try:
        staged.replace(path)
        flush(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from error


def flush(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk now."""
    if path.is_dir() and not OPENS_FOLDERS:
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

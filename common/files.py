"""Files that appear whole or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError
from common.system import OPENS_FOLDERS


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

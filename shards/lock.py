"""One writer at a time: a lock that dies with its process, and the folder for what is not finished."""

import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from shards.commit import BUILD_FOLDER, settle

LOCK_FILE = "lock"


@contextmanager
def build_folder(out: Path) -> Generator[Path]:
    """Make and lock `out`/.build for as long as the block runs; remove it afterwards where nothing is left in it.

    A commit that the writer before was stopped in is finished first.
    Raises UserError where another process holds it, or the folder cannot be made.
    """
    folder = out / BUILD_FOLDER
    descriptor = _locked(out, folder)
    try:
        settle(out)
        yield folder
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        remove_if_empty(folder)
        os.close(descriptor)


def sweep(folder: Path, *, keep: Collection[str] = ()) -> None:
    """Remove what a writer that is done, or one that was killed, left in its build folder."""
    for path in folder.iterdir():
        if path.name != LOCK_FILE and path.name not in keep:
            path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove a build folder in which nothing waits for another try."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _locked(out: Path, folder: Path) -> int:
    """Descriptor of the lock file, locked. The system lets go of it when this process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}).") from None
    if not _try_lock(descriptor) or not _is_still(folder / LOCK_FILE, descriptor):
        os.close(descriptor)
        raise UserError(f"{out}: another prep is writing here. Wait for it to end, or give another folder.")
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` still names what we locked: a writer that just ended may have removed it in between."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""One writer at a time: a lock that dies with its process, and the folder for what is not finished.

The lock is filelock's. It leaves its file behind; here that goes with the writer, so that an empty .build can go too.
"""

from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
    lock = _locked(out, folder)
    try:
        settle(out)
        yield folder
    finally:
        with suppress(OSError):  # before the next writer can have it; Windows lets it go only when it is closed
            (folder / LOCK_FILE).unlink()
        lock.release()
        with suppress(OSError):  # the next writer may be there already
            remove_if_empty(folder)


def sweep(folder: Path, *, keep: Collection[str] = ()) -> None:
    """Remove what a writer that is done, or one that was killed, left in its build folder."""
    for path in folder.iterdir():
        if path.name != LOCK_FILE and path.name not in keep:
            path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove a build folder in which nothing waits for another try."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _locked(out: Path, folder: Path) -> FileLock:
    """The lock, held. The system lets go of it when this process ends, however it ends."""
    lock = FileLock(folder / LOCK_FILE, blocking=False, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:  # Timeout among them
        between = (Timeout, FileExistsError, FileNotFoundError)  # the folder goes with the writer that ends
        if isinstance(error, between) and out.is_dir() and not folder.is_file():
            held = "another prep is writing here. Wait for it to end, or give another folder."
            raise UserError(f"{out}: {held}") from None
        raise UserError(f"{out}: cannot be written to ({error.strerror or error}).") from None
    return lock

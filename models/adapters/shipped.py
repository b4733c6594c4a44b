"""The adapters inside Backline, for the tiny base alone: so that a first band needs no training."""

from collections.abc import Sequence
from pathlib import Path

from common.progress import say
from models.loading.checkpoint import TINY

SHIPPED = TINY / "adapters"


def find_adapters(given: Sequence[Path], checkpoint_dir: str | None) -> tuple[Path, ...]:
    """The folders of adapters as a user gives them: paths, or bare names of those inside Backline.

    Without any, the one that follows a vocal and its lead sheet on the tiny base, which is said; none for other bases.
    """
    if given:
        return tuple(adapter_folder(one) for one in given)
    if checkpoint_dir not in (None, "tiny"):
        return ()
    say("no --adapter: the one inside Backline, trained on made-up songs, for trying and not for music.")
    return (SHIPPED / "controlnet",)


def adapter_folder(given: Path) -> Path:
    """The folder at a path; where there is none, the adapter inside Backline of that name ("image2image")."""
    inside = SHIPPED / given
    return inside if not given.exists() and given.name == str(given) and inside.is_dir() else given

"""The adapter inside Backline, for the tiny base alone: so that a first band needs no training."""

from pathlib import Path

from common.progress import say
from models.loading.checkpoint import TINY

SHIPPED = TINY / "adapters"


def shipped_adapters(checkpoint_dir: str | None) -> tuple[Path, ...]:
    """What follows a vocal and its lead sheet where no adapter is named, and say so; none but for the tiny base."""
    if checkpoint_dir not in (None, "tiny"):
        return ()
    say("no --adapter: the one inside Backline, trained on made-up songs, for trying and not for music.")
    return (SHIPPED / "controlnet",)

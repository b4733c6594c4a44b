"""Which harmoniser infers lead sheets for adapters: that of the first which has one of its own, else Backline's."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from models.adapters.adapter import HARMONISER_FOLDER, AdapterCard
from models.harmony.network import harmony_network_hash
from models.harmony.trained import SHIPPED_HARMONISER


def find_harmoniser(folders: Sequence[Path], cards: Sequence[AdapterCard]) -> Path:
    """The folder of the harmoniser that adapters use.

    Raises UserError for one that is missing or not the one that adapter.json names, and for one that it does not name.
    """
    own = [found for one in zip(folders, cards, strict=True) if (found := _own_harmoniser(*one)) is not None]
    return own[0] if own else SHIPPED_HARMONISER


def _own_harmoniser(adapter: Path, card: AdapterCard) -> Path | None:
    folder = adapter / HARMONISER_FOLDER
    if card.harmoniser is None:
        if folder.exists():
            raise UserError(
                f"{folder}: adapter.json names no harmoniser. Train it with train harmoniser --adapter {adapter}, or "
                "take the folder away and name it with --harmoniser."
            )
        return None
    try:
        found = harmony_network_hash(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}), though adapter.json names it. Copy the whole adapter."
        ) from None
    if found != card.harmoniser:
        raise UserError(
            f"{folder}: is {found[:8]}, and adapter.json names {card.harmoniser[:8]}. Copy the whole adapter, or train "
            f"it with train harmoniser --adapter {adapter}."
        )
    return folder

"""What results are called: nothing that lies in their folder is overwritten but by the very same run."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from common.config import read_json
from common.errors import UserError
from common.progress import say
from infer.request.record import GenerationRecord


def free_name(folder: Path, record: GenerationRecord, endings: Sequence[str]) -> str:
    """The record's key, or KEY_2, KEY_3, ...: the first name under which nothing lies but results of the same run.

    `endings` follow the name in what will be written. Says so where the key itself is not free.
    """
    names = (record.key if number == 1 else f"{record.key}_{number}" for number in count(1))
    name = next(name for name in names if _is_free(folder, name, record, endings))
    if name != record.key:
        say(f"{folder}: {record.key} names other files there already, which are kept. The new ones are called {name}.")
    return name


def _is_free(folder: Path, name: str, record: GenerationRecord, endings: Sequence[str]) -> bool:
    card = folder / f"{name}.json"
    if card.is_file():
        return _same_run(card, record)
    return not any((folder / f"{name}{ending}").exists() for ending in endings)


def _same_run(card: Path, record: GenerationRecord) -> bool:
    """Whether a record says what `record` does, but for the results: one vocal, one adapter, one of every setting."""
    try:
        found = read_json(card)
    except UserError:
        return False
    return isinstance(found, dict) and found | {"results": []} == record.model_dump(mode="json") | {"results": []}

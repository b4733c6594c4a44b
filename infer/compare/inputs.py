"""What is compared: the samples of a test set, and the adapters under their names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from common.canonical import sha256_of
from common.config import Config, check_config, read_json
from common.errors import UserError
from common.texts.naming import song_of_vocal, text_beside
from models.adapters.adapter import AdapterCard, read_card
from models.adapters.shipped import adapter_folder

MOST_MODELS = 24
"""As many as the page has letters for."""
UNSAFE = r"/\\:*?\"<>|\x00-\x1f"


class TestSample(Config):
    """One sample of a test set."""

    key: Annotated[str, Field(pattern=rf"^[^.{UNSAFE}][^{UNSAFE}]*$", max_length=100)]
    """Names its files and its row on the page; nothing that a file system minds, and no dot in front."""
    vocal_path: Path
    """Relative to the current folder, or to the test set's."""
    prompt: Annotated[str, Field(min_length=1)]
    """Comma-separated tags."""
    lyrics_path: Path | None = None
    """A text file; without one, KEY_lyrics.txt beside the vocal, else instrumental."""


class ModelConfig(Config):
    """An adapter and how it is to be used; what is left out comes from its card."""

    lora_path: Path
    """Relative to the current folder, or to this file's."""
    lora_weight: float | None = None
    ref_strength: float | None = None


@dataclass(frozen=True)
class Model:
    """An adapter under the name that it has on the page."""

    name: str
    config: ModelConfig
    card: AdapterCard
    sha256: str  # of all its files


def read_test_set(path: Path) -> list[TestSample]:
    """The samples of a test set, [{"key", "vocal_path", "prompt"}, ...]. Raises UserError naming item and field."""
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f'{path}: a test set is a list of {{"key", "vocal_path", "prompt"}}, at least one.')
    items: list[TestSample] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: item {number}"
        item = check_config(TestSample, _object(entry, where), where)
        if item.key.casefold() in (earlier.key.casefold() for earlier in items):
            raise UserError(f"{where}: key {item.key} is taken by an earlier item. Give each its own.")
        vocal = _found(item.vocal_path, path)
        lyrics = _found(item.lyrics_path, path) if item.lyrics_path else _lyrics_beside(vocal)
        items.append(item.model_copy(update={"vocal_path": vocal, "lyrics_path": lyrics}))
    return items


def read_models(given: Sequence[Path], sha256: Callable[[Path], str]) -> list[Model]:
    """Adapters, or those inside Backline by name, under the names of `model_names`; `sha256` hashes a file.

    Raises UserError where two share a name, or one cannot be read.
    """
    paths = [adapter_folder(path) for path in given]
    if len(paths) > MOST_MODELS:
        raise UserError(f"{len(paths)} adapters: the page has letters for {MOST_MODELS}. Compare fewer at once.")
    models: list[Model] = []
    for path, name in zip(paths, model_names(paths), strict=True):
        model = _read_model(path, name, sha256)
        if model.name.casefold() in (earlier.name.casefold() for earlier in models):
            way_out = 'Name it by a JSON file of another name, {"lora_path": ...}.'
            raise UserError(f"{path}: an earlier adapter is called {model.name} too. {way_out}")
        models.append(model)
    return models


def model_names(paths: Sequence[Path]) -> list[str]:
    """Stems of JSON files and names of folders; of folders that share one, what tells their runs apart, if it does."""
    names = [path.stem if _is_json(path) else path.resolve().name for path in paths]
    folders = {number: path.resolve() for number, path in enumerate(paths) if not _is_json(path)}
    for shared in {names[number].casefold() for number in folders}:
        alike = [number for number in folders if names[number].casefold() == shared]
        for runs in zip(*(_run_names(folders[number]) for number in alike), strict=True):
            if len(alike) > 1 and len({run.casefold() for run in runs}) == len(alike):
                for number, run in zip(alike, runs, strict=True):
                    names[number] = run
                break
    return names


def _run_names(folder: Path) -> tuple[str, str]:
    """The run of an adapter in RUN/version_N/checkpoints/, without and with its version; else the folder above it."""
    above = folder.parent
    if above.name == "checkpoints" and len(folder.parents) > 2:
        return above.parent.parent.name, f"{above.parent.parent.name} {above.parent.name}"
    return above.name, above.name


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _read_model(path: Path, name: str, sha256: Callable[[Path], str]) -> Model:
    if _is_json(path):
        config = check_config(ModelConfig, _object(read_json(path), str(path)), str(path))
        folder = _found(config.lora_path, path)
        config = config.model_copy(update={"lora_path": folder})
    else:
        config, folder = ModelConfig(lora_path=path), path
    card = read_card(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return Model(name, config, card, sha256_of({file.name: sha256(file) for file in files}))


def _object(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}, not a JSON object {{...}}.")
    return values


def _found(path: Path, named_in: Path) -> Path:
    """A path as the current folder sees it; where it is not there, as the folder of the file that names it does."""
    beside = named_in.parent / path
    return beside if beside.exists() and not path.exists() else path


def _lyrics_beside(vocal: Path) -> Path | None:
    """Where `infer generate` and prep look too."""
    return text_beside(vocal, song_of_vocal(vocal), "lyrics")

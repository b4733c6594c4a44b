"""Files of networks that transformers builds: their config.json and their tokenizer."""

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from common.errors import UserError
from models.loading.weights import opened_weights

CODE_OPTIONS = ("attn_implementation", "_attn_implementation")
"""Options by which transformers would fetch code from Hugging Face and run it."""


def network_options(config: Any, path: Path) -> dict[str, Any]:
    """The config.json of a network that transformers builds. Raises UserError where it asks for code of its own."""
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}; it must be a JSON object.")
    for option in CODE_OPTIONS:
        if "/" in str(config.get(option)):
            raise UserError(f"{path}: {option} names code on Hugging Face, which is never run. Take it out.")
    return config


def check_weights(folder: Path) -> None:
    """Raises UserError, which transformers does not, for a model.safetensors that is damaged or cannot be opened."""
    with opened_weights(folder / "model.safetensors"):
        pass


def open_whole(kind: type[PreTrainedModel], folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """A network of a folder's model.safetensors, frozen, float32; no other file is read, and nothing is downloaded.

    Raises UserError for weights that are damaged, missing or do not fit.
    """
    check_weights(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the loader prints a table of keys; what matters of it is checked below
    try:
        opened = kind.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    finally:
        logging.set_verbosity(verbosity)
    network, report = cast(tuple[PreTrainedModel, dict[str, Any]], opened)
    missing = sorted(report["missing_keys"]) + [key for key, *_ in report["mismatched_keys"]]
    if missing:
        raise UserError(
            f"{folder}/model.safetensors: {len(missing)} weights missing or of another shape: {missing[0]}, ..."
        )
    return network.eval().requires_grad_(False)


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; it appends the end token by itself. Raises UserError for a bad file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. The text encoder needs its tokenizer.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: damaged ({error}). Copy or download it again.") from None

"""Files of networks that transformers builds: their config.json and their tokenizer."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from common.errors import UserError

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


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; it appends the end token by itself. Raises UserError for a bad file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. The text encoder needs its tokenizer.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: damaged ({error}). Copy or download it again.") from None

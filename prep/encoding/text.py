"""A song's texts as the transformer takes them: the prompt's states in several tag orders, and lyric tokens.

K tag orders, L text tokens (the longest order's), D text width.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import factorial
from pathlib import Path

import numpy as np
import torch

from common.progress import say
from common.texts.tags import fitting_tags, spelt, tags_of
from models.acestep1.text.lyric_tokens import say_unread
from models.loading.checkpoint import open_lyric_reader, open_text_encoder
from models.protocols import LyricReader, LyricTokens, PromptEncoder
from prep.config import TextConfig

SHOWN, SHOWN_LETTERS = 3, 40
"""Prompts that are named where many are too long, and how much of each."""
TRIES = 1000
"""Shuffles to look at for orders that differ."""


@dataclass(frozen=True)
class PromptStates:
    """A prompt's states in each of its tag orders."""

    orders: tuple[str, ...]  # of the tags that fit
    text: np.ndarray  # float16 [K, L, D], 0 where there is no token
    mask: np.ndarray  # bool [K, L]

    @property
    def bytes(self) -> int:
        return self.text.nbytes + self.mask.nbytes


class TextMaker:
    """Embeds prompts, each distinct one once for as long as its states find room, and encodes lyrics."""

    def __init__(self, config: TextConfig, encoder: PromptEncoder, reader: LyricReader) -> None:
        self._config, self._encoder, self._reader = config, encoder, reader
        self.embedded: list[str] = []
        """Prompts that went through the network."""
        self.shortened: dict[str, tuple[str, ...]] = {}
        """Prompts that were too long, and the tags that were left out of each."""
        self.unread: list[str] = []
        """Why each line of lyrics that was left out could not be read."""
        self._kept: OrderedDict[tuple[str, str], PromptStates] = OrderedDict()  # the one used last at the end
        reader.check_language(config.lyrics_language)  # an unknown one is no song's fault: say so now

    @property
    def longest_tokens(self) -> int:
        """Longest prompt that the encoder takes."""
        return self._encoder.spec.text_tokens

    def prompt(self, prompt: str, *, seconds: float) -> PromptStates:
        """The states of a prompt for a segment of so many seconds.

        They are kept for segments that share what is asked of the encoder; what was used longest ago makes room.
        """
        key = prompt, self._encoder.worded(prompt, seconds=seconds)
        if key not in self._kept:
            self._kept[key] = self._embedded(prompt, seconds)
        self._kept.move_to_end(key)
        found = self._kept[key]
        while sum(states.bytes for states in self._kept.values()) > self._config.prompt_cache_mib * 2**20:
            self._kept.popitem(last=False)
        return found

    def _embedded(self, prompt: str, seconds: float) -> PromptStates:
        """Each order is embedded by itself, so that none is padded while the network runs.

        Of a prompt that is too long, all orders hold the same first tags.
        """
        self.embedded.append(prompt)
        encoder, worded = self._encoder, partial(self._encoder.worded, seconds=seconds)
        tags = fitting_tags(
            lambda tags: encoder.fits(worded(tags)), tags_of(prompt), lambda tags: tag_orders(tags, self._config)
        )
        if tags.dropped:
            self.shortened[prompt] = tags.dropped
        orders = tag_orders(tags.kept, self._config)
        with torch.inference_mode():
            states = [encoder.embed([worded(order)]).states[0].to("cpu", torch.float16).numpy() for order in orders]
        return PromptStates(orders, _padded(states), _mask([len(state) for state in states]))

    def lyrics(self, lyrics: str) -> LyricTokens:
        """Tokens of a song's lyrics, without the lines that the chosen language cannot read."""
        tokens = self._reader.read(lyrics, self._config.lyrics_language)
        self.unread += tokens.unread
        return tokens


def open_texts(folder: Path, config: TextConfig, device: str) -> TextMaker:
    """The text encoder of a checkpoint's folder, with all that its texts need. Raises UserError for bad files."""
    encoder = open_text_encoder(folder).to(device)
    return TextMaker(config, encoder, open_lyric_reader(folder, encoder))


def say_what_was_left_out(texts: TextMaker) -> None:
    """Name prompts that were too long, the first few, with the tags that were left out, and lyrics not read."""
    say_unread(texts.unread, "lyrics of these songs")
    found, longest = list(texts.shortened.items()), texts.longest_tokens
    for prompt, lost in found[:SHOWN]:
        start = prompt if len(prompt) <= SHOWN_LETTERS else f"{prompt[:SHOWN_LETTERS]}..."
        say(f'prompt "{start}": longer than {longest} tokens; these tags are left out: {spelt(lost)}')
    if len(found) > SHOWN:
        say(f"{len(found) - SHOWN} more prompts are longer than {longest} tokens; tag_orders in their samples hold "
            "the tags that fit.")  # fmt: skip


def tag_orders(tags: Sequence[str], config: TextConfig) -> tuple[str, ...]:
    """Distinct orders of a prompt's tags, the first as written; as many as asked for and possible.

    An order sorts the tags by a hash over seed, order and tag, so it depends on nothing else, the machine included.
    """
    orders = {spelt(tags): None}
    wanted = min(config.tag_orders, factorial(len(set(tags))))
    for attempt in range(TRIES):
        if len(orders) >= wanted:
            break
        shuffled = sorted(tags, key=lambda tag: hashlib.sha256(f"{config.seed}/{attempt}/{tag}".encode()).digest())
        orders.setdefault(spelt(shuffled))
    return tuple(orders)


def _padded(states: Sequence[np.ndarray]) -> np.ndarray:
    """[L_k, D] each -> [K, L, D], filled up with zeros."""
    padded = np.zeros((len(states), max(map(len, states)), states[0].shape[1]), dtype=np.float16)
    for row, state in zip(padded, states, strict=True):
        row[: len(state)] = state
    return padded


def _mask(lengths: Sequence[int]) -> np.ndarray:
    return np.arange(max(lengths)) < np.array(lengths)[:, None]

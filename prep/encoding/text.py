"""A song's texts as the transformer takes them: the prompt's states in several tag orders, and lyric ids.

K tag orders, L text tokens (the longest order's), D text width, N lyric tokens.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import torch

from common.progress import say
from common.texts.tags import fitting_tags, spelt, tags_of
from models.acestep1.text.lyric_tokens import LyricVocabulary, encode_lyrics, say_unread
from models.protocols import PromptEncoder
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


@dataclass(frozen=True)
class LyricIds:
    """A song's lyrics as ids."""

    ids: np.ndarray  # int32 [N]
    dropped_words: bool
    """Words were left out, because there is no vocabulary."""


class TextMaker:
    """Embeds prompts, each distinct one once for as long as its states find room, and encodes lyrics."""

    def __init__(self, config: TextConfig, encoder: PromptEncoder, vocabulary: LyricVocabulary | None) -> None:
        self._config, self._encoder, self._vocabulary = config, encoder, vocabulary
        self.embedded: list[str] = []
        """Prompts that went through the network."""
        self.shortened: dict[str, tuple[str, ...]] = {}
        """Prompts that were too long, and the tags that were left out of each."""
        self.unread: list[str] = []
        """Why each line of lyrics that was left out could not be read."""
        self._kept: OrderedDict[str, PromptStates] = OrderedDict()  # the one used last at the end
        encode_lyrics("", None, config.lyrics_language)  # an unknown language is no song's fault: say so now

    @property
    def longest_tokens(self) -> int:
        """Longest prompt that the encoder takes."""
        return self._encoder.spec.text_tokens

    def prompt(self, prompt: str) -> PromptStates:
        """A prompt's states, which are kept for songs that share it; what was used longest ago makes room."""
        if prompt not in self._kept:
            self._kept[prompt] = self._embedded(prompt)
        self._kept.move_to_end(prompt)
        found = self._kept[prompt]
        while sum(states.bytes for states in self._kept.values()) > self._config.prompt_cache_mib * 2**20:
            self._kept.popitem(last=False)
        return found

    def _embedded(self, prompt: str) -> PromptStates:
        """Each order is embedded by itself, so that none is padded while the network runs.

        Of a prompt that is too long, all orders hold the same first tags.
        """
        self.embedded.append(prompt)
        tags = fitting_tags(self._encoder.fits, tags_of(prompt), lambda tags: tag_orders(tags, self._config))
        if tags.dropped:
            self.shortened[prompt] = tags.dropped
        orders = tag_orders(tags.kept, self._config)
        with torch.inference_mode():
            states = [self._encoder.embed([order]).states[0].to("cpu", torch.float16).numpy() for order in orders]
        return PromptStates(orders, _padded(states), _mask([len(state) for state in states]))

    def lyrics(self, lyrics: str) -> LyricIds:
        """Ids of a song's lyrics, without the lines that the chosen language cannot read."""
        tokens = encode_lyrics(lyrics, self._vocabulary, self._config.lyrics_language)
        self.unread += tokens.unread
        return LyricIds(tokens.ids, tokens.dropped_words)


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

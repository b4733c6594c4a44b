"""The words that go with a vocal: its prompt as text states and its lyrics as token ids, and their absence.

S text tokens, D width of a text state, L lyric tokens, E condition tokens, I inner width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.bases import LYRIC_VOCABULARY_FILE, BaseSpec
from common.errors import UserError
from common.progress import say
from common.texts.lyrics import LyricsContent
from common.texts.tags import fitting_tags, spelt, tags_of
from common.texts.text import UTF_8, read_text
from models.acestep1.text.lyric_tokens import say_unread
from models.acestep1.transformer.erg import lyric_queries, weakened
from models.flow.conditioning import pack_conditions
from models.loading.checkpoint import lyrics_reduced
from models.protocols import Conditions, FlowNetwork, LyricReader, PromptEncoder
from shards.schema import Sample

NO_PROMPT = "instrumental"


@dataclass(frozen=True)
class EncodedPrompt:
    """Tags, and what the text encoder makes of them."""

    tags: str  # those that fit its tokens
    states: Tensor  # [S, D] float32
    weakened: Tensor | None = None  # [S, D] float32, what guidance of rectified entropy sets against them


@dataclass(frozen=True)
class TokenizedLyrics:
    """Lyrics as text and as token ids, or as the rows that stand for those."""

    text: str
    ids: Tensor  # [L] int64, or [L, D] float16
    language: str  # that its words were read in


@dataclass(frozen=True)
class TextInputs:
    """What conditions the network besides the vocal."""

    prompt: EncodedPrompt
    lyrics: TokenizedLyrics


@torch.no_grad()
def embed_prompt(
    tags: str, encoder: PromptEncoder, *, seconds: float, has_source: bool = True, erg: bool = False
) -> EncodedPrompt:
    """A prompt for a song of so many seconds, spelt as prep spells it. Tags that do not fit are named.

    Raises UserError where ERG is asked of a text encoder that has not the blocks for it.
    """
    worded = partial(encoder.worded, seconds=seconds, has_source=has_source)
    found = fitting_tags(lambda tags: encoder.fits(worded(tags)), tags_of(tags) or [NO_PROMPT])
    if found.dropped:
        longest = encoder.spec.text_tokens
        say(f"the prompt is longer than {longest} tokens; these tags are left out: {spelt(found.dropped)}")
    tags = spelt(found.kept)
    weakened = encoder.embed([worded(tags)], weakened=True).states[0].cpu() if erg else None
    return EncodedPrompt(tags, encoder.embed([worded(tags)]).states[0].cpu(), weakened)


def cached_prompt(sample: Sample) -> EncodedPrompt:
    """The prompt that a shard holds, its tags in the order in which they were written; never weakened."""
    return EncodedPrompt(sample.meta.tag_orders[0], torch.from_numpy(sample.text[0][sample.text_mask[0]]).float())


def read_lyrics(
    path: Path | None, content: LyricsContent, *, spec: BaseSpec, reader: Callable[[], LyricReader], language: str
) -> TokenizedLyrics:
    """`content` of the lyrics in a file, [instrumental] without one.

    Raises UserError for a file that is not there, or no text.
    """
    given = (read_text_file(path) if path else "") or lyrics_reduced(spec, "", "instrumental")
    text = lyrics_reduced(spec, given, content)
    if text != given:
        left = "only its [tags] are" if content == "structure" else "none of it is"
        say(f"{path}: {left} used, as in the adapter's training. --lyrics-content words uses all of it.")
    return tokenize(text, str(path), reader=reader(), language=language)


def tokenize(text: str, source: str, *, reader: LyricReader, language: str) -> TokenizedLyrics:
    """Lyrics that came from `source`, with their ids, without the lines that the language cannot read."""
    tokens = reader.read(text, language)
    if tokens.dropped_words:
        say(f"{source}: only its [tags] are used; words need {LYRIC_VOCABULARY_FILE} in the checkpoint folder.")
    say_unread(tokens.unread, source)
    return TokenizedLyrics(text, _as_tensor(tokens.ids), language)


def cached_lyrics(sample: Sample, language: str) -> TokenizedLyrics:
    """The lyrics that a shard holds, in the language that its manifest names."""
    return TokenizedLyrics(sample.meta.lyrics, _as_tensor(sample.lyrics), language)


def cached_reduced_lyrics(sample: Sample, text: str, content: LyricsContent, language: str) -> TokenizedLyrics | None:
    """What a shard holds of less of the lyrics, `text` then; None where that can be made of it without a network."""
    rows = sample.reduced_lyrics.get(content)
    return None if rows is None else TokenizedLyrics(text, _as_tensor(rows), language)


def _as_tensor(lyrics: np.ndarray) -> Tensor:
    """Ids as int64, rows as they are."""
    held = torch.from_numpy(np.array(lyrics))
    return held if held.is_floating_point() else held.long()


@torch.no_grad()
def encode_conditions(transformer: FlowNetwork, text: TextInputs) -> Conditions:
    """What the transformer, and each of its blocks, makes of the words: states [1, E, I]."""
    return _encode(transformer, text.prompt.states, text.lyrics.ids)


@torch.no_grad()
def encode_null_conditions(transformer: FlowNetwork, text: TextInputs) -> Conditions:
    """What guidance leads away from (docs/upstream.md, section 7).

    The words left out, as training leaves them out: a text of zeros as long as theirs, no lyrics. With ERG it is the
    words themselves, encoded with flattened attention.
    """
    if text.prompt.weakened is not None:
        with weakened(lyric_queries(transformer)):
            return _encode(transformer, text.prompt.weakened, text.lyrics.ids)
    return _encode(transformer, text.prompt.states, text.lyrics.ids, is_null=True)


def _encode(transformer: FlowNetwork, text: Tensor, ids: Tensor, *, is_null: bool = False) -> Conditions:
    device = transformer.device
    text, ids = text[None].to(device), ids[None].to(device)
    masks = (torch.ones(states.shape[:2], dtype=torch.bool, device=device) for states in (text, ids))
    text_mask, lyric_mask = masks
    condition = transformer.null_condition if is_null else transformer.condition
    return transformer.prepare(pack_conditions(condition(text, text_mask, ids, lyric_mask)))


def read_text_file(path: Path) -> str:
    """What a file of tags or lyrics says. Raises UserError where there is none, or no text."""
    text = read_text(path)
    if text is None:
        raise UserError(f"{path}: no such file.")
    if text.encoding != UTF_8:
        say(f"{path}: read as {text.encoding}.")
    return text.content

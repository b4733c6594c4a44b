"""ACE-Step 1.5's text encoder: Qwen3, whose states condition on a prompt, and whose embedding rows stand for lyrics.

B texts, S text tokens, L lyric tokens, D width of a state and of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from common.bases import ACE_STEP_15
from common.errors import UserError
from common.texts.tags import tags_of
from models.acestep15.prompts import END, TEXT2MUSIC, check_language, complete, lyrics_of, lyrics_prompt, text_prompt
from models.device import shapes_alone, whole_float32
from models.pretrained import network_options
from models.protocols import LyricReader, LyricTokens, PromptEncoder, TextStates

MAX_TOKENS = ACE_STEP_15.text_tokens
MAX_LYRIC_TOKENS = 2048


class QwenTextEncoder(PromptEncoder):
    """Qwen3 and the tokenizer of its checkpoint. It takes texts as models/acestep15/prompts.py makes them.

    The network is causal: what pads a text behind its end changes nothing in it, and no mask is needed.
    """

    spec = ACE_STEP_15

    def __init__(self, network: Qwen3Model, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(END) or 0)

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.hidden_size

    @whole_float32()
    def embed(self, prompts: Sequence[str], *, weakened: bool = False) -> TextStates:
        """Last hidden states, after the final norm, of the first MAX_TOKENS tokens. [B, S, D]

        Raises UserError where they are to be `weakened`, which this base model does not know.
        """
        if weakened:
            raise UserError(f"erg: {ACE_STEP_15.name} has no entropy rectifying guidance. Set erg to false.")
        ids, mask = self._tokens(prompts, MAX_TOKENS)
        return TextStates(self.network(input_ids=ids, use_cache=False).last_hidden_state, mask)

    def lyric_rows(self, lyrics: Sequence[str]) -> TextStates:
        """Embedding rows of the first MAX_LYRIC_TOKENS tokens; the condition encoder reads them. [B, L, D]"""
        ids, mask = self._tokens(lyrics, MAX_LYRIC_TOKENS)
        return TextStates(self.network.get_input_embeddings()(ids), mask)

    def worded(self, tags: str, *, seconds: float, has_source: bool = True) -> str:
        """The template around the tags, which asks for what the source lacks, in every mode: shards are of use to all,
        and an adapter learns what is meant. Without a source it is the base model's own text2music.
        """
        return text_prompt(tags_of(tags), seconds=seconds, instruction=complete() if has_source else TEXT2MUSIC)

    def fits(self, prompt: str) -> bool:
        """Whether all of a prompt fits: at most MAX_TOKENS, its end token among them."""
        self.tokenizer.enable_truncation(MAX_TOKENS)
        return not self.tokenizer.encode(prompt).overflowing

    def _tokens(self, texts: Sequence[str], longest: int) -> tuple[Tensor, Tensor]:
        """Ids and their mask. [B, S] each"""
        self.tokenizer.enable_truncation(longest)
        rows = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([row.ids for row in rows], device=self.network.device)
        return ids, torch.tensor([row.attention_mask for row in rows], device=self.network.device).bool()


@dataclass(frozen=True)
class LyricRowReader(LyricReader):
    """Lyrics as rows of the text encoder's embedding, which a trainer without it could not make of less of them."""

    encoder: QwenTextEncoder

    def check_language(self, language: str) -> None:
        """Raises UserError for what is no code of a language."""
        check_language(language)

    @torch.inference_mode()
    def read(self, lyrics: str, language: str) -> LyricTokens:
        rows = {
            content: self.encoder.lyric_rows([lyrics_prompt(text, language=language)])
            .states[0].to("cpu", torch.float16).numpy()
            for content, text in lyrics_of(lyrics).items()
        }  # fmt: skip
        return LyricTokens(rows.pop("words"), {**rows})


def build_text_network(config: Mapping[str, Any], path: Path) -> Qwen3Model:
    """The network of a config.json, without memory for its weights (on the meta device).

    Raises UserError, which names `path`, for settings that make none.
    """
    options = network_options(config, path)
    try:
        with shapes_alone():
            return Qwen3Model(Qwen3Config(**options))
    except (StrictDataclassError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def with_rotary_tables(network: Qwen3Model) -> Qwen3Model:
    """The network with what no file holds: the frequencies of its rotary positions, on the CPU."""
    network.rotary_emb = Qwen3RotaryEmbedding(network.config)
    return network

"""Prompts to text states: the UMT5 encoder with its tokenizer (docs/upstream.md, section 7).

B prompts, S text tokens (at most 256, the longest of the batch), D width of a text state.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from common.bases import ACE_STEP_1
from common.errors import UserError
from models.acestep1.transformer.erg import weakened as weak
from models.device import shapes_alone, whole_float32
from models.pretrained import network_options
from models.protocols import PromptEncoder, TextStates

MAX_TOKENS = ACE_STEP_1.text_tokens
WEAK_BLOCKS = (8, 9)
"""Blocks whose queries entropy rectifying guidance weakens in its unconditional pass."""
TIED = "encoder.embed_tokens.weight"
"""A second name of shared.weight, which the file leaves out."""


class TextEncoder(PromptEncoder):
    """UMT5 and the tokenizer of its checkpoint."""

    spec = ACE_STEP_1

    def __init__(self, network: UMT5EncoderModel, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding(pad_id=network.config.pad_token_id)

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.d_model

    def embed(self, prompts: Sequence[str], *, weakened: bool = False) -> TextStates:
        """Text states of `prompts`; `weakened` gives those of entropy rectifying guidance (see `states`)."""
        rows = self.tokenizer.encode_batch(list(prompts))
        ids = torch.tensor([row.ids for row in rows], device=self.network.device)
        mask = torch.tensor([row.attention_mask for row in rows], device=self.network.device)
        return TextStates(self.states(ids, mask, weakened=weakened), mask.bool())

    def fits(self, prompt: str) -> bool:
        """Whether all of a prompt fits: at most MAX_TOKENS, its end token among them."""
        return not self.tokenizer.encode(prompt).overflowing

    @whole_float32()
    def states(self, ids: Tensor, mask: Tensor, *, weakened: bool = False) -> Tensor:
        """Last hidden states, after the final norm. ids, mask [B, S] integers -> [B, S, D].

        `weakened` flattens the attention of blocks 8 and 9. Raises UserError where the network has no such blocks.
        """
        with weak(self._weak_queries()) if weakened else nullcontext():
            return self.network(input_ids=ids, attention_mask=mask).last_hidden_state

    def _weak_queries(self) -> list[nn.Module]:
        layers = self.network.config.num_layers
        if layers <= max(WEAK_BLOCKS):
            raise UserError(
                f"erg: this text encoder has {layers} blocks; blocks {WEAK_BLOCKS[0]} and {WEAK_BLOCKS[1]} are those "
                "to weaken. Set erg to false."
            )
        return [self.network.get_submodule(f"encoder.block.{i}.layer.0.SelfAttention.q") for i in WEAK_BLOCKS]


def build_network(config: Mapping[str, Any], path: Path) -> UMT5EncoderModel:
    """The network of a config.json, without memory for its weights (on the meta device).

    Raises UserError, which names `path`, for settings that make none.
    """
    options = network_options(config, path)
    try:
        with shapes_alone():
            return UMT5EncoderModel(UMT5Config(**options))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def stored_shapes(network: UMT5EncoderModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the file."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name != TIED}


def tied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the file under all names of the network."""
    return {**weights, TIED: weights["shared.weight"]}

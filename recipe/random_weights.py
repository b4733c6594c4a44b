"""Seeded random weights whose bytes are the same on every machine, scaled so that signals keep their size."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

EMBEDDINGS = (
    "lyric_embs.weight",
    "shared.weight",
    "freq_emb.embedding.weight",
    "embed_tokens.weight",
    "condition_encoder.null_condition_emb",
    "condition_encoder.timbre_encoder.special_token",
)
VECTORS = {"weight": 1.0, "gamma": 0.5, "scale": 0.1, "weight_g": 1.0}
"""What the entries of a vector are, by the last word of its name (norms, layer scales); of any other: 0."""
TRANSPOSED = (".ups.", "conv_tr", "conv_t1.", "proj_out_conv.")
"""In names of kernels of shape [inputs, outputs, taps]."""


def random_weights(shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Tensor]:
    """float32 weights for `shapes`.

    Matrices and kernels are uniform with variance 1 / inputs, embeddings with variance 1. Uniform numbers and
    products of them are exact in IEEE arithmetic, which normal ones (made with logarithms) are not.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _weight(name, shape, generator) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name not in EMBEDDINGS and math.prod(shape) == max(shape):  # a vector, also one kept as [n, 1, 1]
        return torch.full(shape, VECTORS.get(name.rpartition(".")[2], 0.0))
    deviation = 1.0 if name in EMBEDDINGS else 1 / math.sqrt(_inputs(name, shape))
    return (2 * torch.rand(shape, generator=generator) - 1) * (deviation * math.sqrt(3))


def _inputs(name: str, shape: tuple[int, ...]) -> int:
    transposed = any(part in name for part in TRANSPOSED)
    return math.prod(shape) // shape[1] if transposed else math.prod(shape[1:])

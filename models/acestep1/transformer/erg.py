"""Entropy rectifying guidance: an unconditional pass whose queries are nearly flat. docs/upstream.md, section 7."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from torch import Tensor, nn

from common.errors import UserError

TAU = 0.01
"""What a weakened query projection is multiplied by."""
LYRIC_LAYERS = range(4, 6)
DIFFUSION_BLOCKS = range(15, 20)


@contextmanager
def weakened(projections: Iterable[nn.Module]) -> Generator[None]:
    """While the block runs, the outputs of `projections` are multiplied by TAU."""

    def weaken(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * TAU

    hooks = [projection.register_forward_hook(weaken) for projection in projections]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def lyric_queries(transformer: nn.Module) -> list[nn.Module]:
    """Query projections to weaken while the unconditional conditions are encoded. Raises UserError for other sizes."""
    return _named(transformer, [f"lyric_encoder.encoders.{i}.self_attn.linear_q" for i in LYRIC_LAYERS])


def diffusion_queries(transformer: nn.Module) -> list[nn.Module]:
    """Query projections to weaken while the unconditional velocity is predicted. Raises UserError for other sizes."""
    kinds = ("attn", "cross_attn")
    return _named(transformer, [f"transformer_blocks.{i}.{kind}.to_q" for i in DIFFUSION_BLOCKS for kind in kinds])


def _named(transformer: nn.Module, names: list[str]) -> list[nn.Module]:
    modules = dict(transformer.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise UserError(f"erg: this network has no {missing[0]}; it is made for the full network. Set erg to false.")
    return [modules[name] for name in names]

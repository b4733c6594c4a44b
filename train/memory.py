"""How much memory a run needs: estimated before it begins, measured once it runs."""

import psutil
import torch

from train.module import AccompanimentModule

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}
"""State for one trained number."""
BLOCK_BYTES = {torch.float32: 129, torch.bfloat16: 99}
"""What a block keeps for its backward pass per frame and unit of its width, by the base's dtype (measured)."""


def estimated_bytes(module: AccompanimentModule) -> int:
    """Peak of training on clips as long as the crop: weights, gradients, optimiser, and what the blocks keep."""
    config = module.config
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.trained.values())
    beside = 4 + OPTIMIZER_BYTES[config.optimizer] + (4 if config.ema_decay else 0)
    return weights + beside * trained + _kept_bytes(module)


def measured_bytes() -> int:
    """Peak on the GPU, else what this process holds now."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def in_gib(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 2**30:.2f} GiB"


def _kept_bytes(module: AccompanimentModule) -> int:
    """Blocks that recompute keep their input only, and one at a time all the rest."""
    transformer, config = module.transformer, module.config
    positions = config.batch_size * config.crop_frames * transformer.inner_width
    blocks, dtype = len(transformer.transformer_blocks), transformer.final_layer.scale_shift_table.dtype
    if config.gradient_checkpointing:
        return positions * (blocks * dtype.itemsize + BLOCK_BYTES[dtype])
    return positions * blocks * BLOCK_BYTES[dtype]

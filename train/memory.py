"""How much memory a run needs: estimated before it begins, measured once it runs."""

from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import torch

from common.memory import told_when_full
from train.config import TrainingConfig
from train.module import AccompanimentModule

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}
"""State for one trained number."""
BLOCK_BYTES = {torch.float32: 129, torch.bfloat16: 99}
"""What a block keeps for its backward pass per frame and unit of its width, by the base's dtype (measured)."""

SHORT_SECONDS, SMALL_RANK = 60, 64
"""A crop and a rank that need little memory."""


def estimated_bytes(module: AccompanimentModule) -> int:
    """Peak of training on clips as long as the crop: weights, gradients, optimiser, and what the blocks keep."""
    config = module.config
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.trained.values())
    beside = 4 + OPTIMIZER_BYTES[config.optimizer] + (4 if config.ema_decay else 0)
    return weights + beside * trained + _kept_bytes(module)


def told_when_training_is_full(config: TrainingConfig, last: Path) -> AbstractContextManager[None]:
    """Turns an error of memory into a UserError with the settings that need less, in the order of the README.

    `last` is the run's last.ckpt, whether it is there or not.
    """
    seconds = config.crop_seconds or config.max_duration
    ways = (
        "--precision bf16" if config.base_dtype in {None, "float32"} else None,
        "--set gradient_checkpointing=true" if not config.gradient_checkpointing else None,
        "--set batch_size=1" if config.batch_size > 1 else None,
        f"--set crop_seconds={SHORT_SECONDS}" if seconds > SHORT_SECONDS else None,
        f"--set lora.r={SMALL_RANK}" if config.lora.r > SMALL_RANK else None,
        "--set base_dtype=int8" if config.base_dtype != "int8" else None,
        "--set optimizer=adamw8bit" if config.optimizer != "adamw8bit" else None,
        "a device with more memory",
    )
    doing = f"training on clips of up to {seconds:g} s, {config.batch_size} at a time"
    return told_when_full(doing, *ways, kept=lambda: f"{last} is kept." if last.is_file() else "")


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

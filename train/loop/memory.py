"""How much memory a run needs: estimated before it begins, measured once it runs."""

from contextlib import AbstractContextManager
from math import ceil
from pathlib import Path

import psutil
import torch

from common.memory import explain_out_of_memory
from models.flow.control import ControlEncoder
from models.flow.lead_sheet import VocalAndLeadSheet, vocal_part
from train.config import TrainingConfig
from train.loop.module import AccompanimentModule

OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}
"""State for one trained number."""
BLOCK_BYTES = {torch.float32: 129, torch.bfloat16: 99}
"""What a block keeps for its backward pass per token and unit of its width, by the base's dtype (measured)."""
CONTROL_BYTES = 50
"""The same of a block of the control encoder and the lead sheet encoder: float32, never recomputed (counted)."""
PUBLISHED_WIDTH = 2560
DECODER_BYTES, WINDOW_BYTES = 728_000_000, 1_250_000_000
"""Codec's decoder and vocoder beside a base of PUBLISHED_WIDTH, and what a full window takes in them (counted)."""
WINDOW_FRAMES = 512
"""Latent frames of a full window (models/acestep1/codec/codec.py, which training does not import)."""
SHORT_SECONDS, SMALL_RANK = 60, 64
"""A crop and a rank that need little memory."""


def estimated_bytes(module: AccompanimentModule) -> int:
    """Peak of training on clips as long as the crop: weights, gradients, optimiser, and the larger of two.

    Those are what the blocks keep for a backward pass, and what a rendering takes, where there is any.
    """
    config = module.config
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.trained.values())
    beside = 4 + OPTIMIZER_BYTES[config.optimizer] + (4 if config.ema_decay else 0)
    return weights + beside * trained + max(_kept_bytes(module), _render_bytes(module))


def training_memory_errors(config: TrainingConfig, last: Path) -> AbstractContextManager[None]:
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
    return explain_out_of_memory(doing, *ways, kept=lambda: f"{last} is kept." if last.is_file() else "")


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
    frames = config.batch_size * ceil(config.crop_frames(transformer.spec.latents) / transformer.spec.block_frames)
    positions, blocks = frames * transformer.inner_width, len(transformer.transformer_blocks)
    dtype = transformer.weight_dtype
    again = config.gradient_checkpointing
    kept = positions * (blocks * dtype.itemsize + BLOCK_BYTES[dtype] if again else blocks * BLOCK_BYTES[dtype])
    vocal = vocal_part(module.conditioner)
    if isinstance(vocal, ControlEncoder):
        kept += frames * len(vocal.blocks) * vocal.patch_embed.out_features * CONTROL_BYTES
    if isinstance(module.conditioner, VocalAndLeadSheet):
        sheet = module.conditioner.lead_sheet
        kept += frames * len(sheet.blocks) * sheet.embed.out_features * CONTROL_BYTES
    return kept


def _render_bytes(module: AccompanimentModule) -> int:
    """The decoders, and the window that is in them, in proportion to the base."""
    if not module.config.render_every_n_steps:
        return 0
    share = min(1.0, module.config.crop_frames(module.transformer.spec.latents) / WINDOW_FRAMES)
    return round((DECODER_BYTES + share * WINDOW_BYTES) * module.transformer.inner_width / PUBLISHED_WIDTH)

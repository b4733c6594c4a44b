"""The optimisers, two of which are installed only if wanted, and the learning rate over a run."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from torch import nn
from torch.optim import AdamW, Optimizer

from common.errors import UserError
from train.config import TrainingConfig

BETAS = (0.8, 0.9)


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> Optimizer:
    """The optimiser that `config` names. Raises UserError where its package is missing."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "adamw8bit":
        package = _package("bitsandbytes", config)
        return package.optim.AdamW8bit(parameters, lr=rate, betas=BETAS, weight_decay=decay)
    if config.optimizer == "prodigy":
        package = _package("prodigyopt", config)
        return package.Prodigy(
            parameters, lr=rate, betas=BETAS, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True
        )
    on_cuda = all(parameter.is_cuda for parameter in parameters)  # one kernel for many tensors, where there is one
    return AdamW(parameters, lr=rate, betas=BETAS, weight_decay=decay, fused=on_cuda or None)


def rate_at(step: int, warmup_steps: int, max_steps: int) -> float:
    """Share of the learning rate at a step: from 0 up in warmup_steps, then down to 0 at max_steps, as upstream."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (max_steps - step) / max(1, max_steps - warmup_steps))


def _package(name: str, config: TrainingConfig) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"optimizer {config.optimizer}: {name} is not installed. Install it (uv sync --extra optimizers), or set "
            "optimizer to adamw."
        ) from None

"""How several devices share a run: every one holds all (DDP), or the frozen base is divided among them (FSDP2)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed
from lightning.pytorch.strategies import ParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from models.device import chosen_device
from models.protocols import FlowNetwork
from train.config import TrainingConfig
from train.devices.ranks import WatchedDDP, WatchedModelParallel

StrategyName = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class Hardware:
    """Accelerator and devices for Lightning's Trainer."""

    accelerator: str
    devices: int | list[int]  # how many, or which one


def hardware(device: str, *, devices: int, config: TrainingConfig) -> Hardware:
    """The devices of the flags --device and --devices.

    Raises UserError for a device that cannot be used, for more of them than there are, and for settings that cannot
    run there.
    """
    chosen = chosen_device(device)
    if chosen.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(
            f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs. Use at most so many, or "
            "--device cpu."
        )
    if chosen.type == "mps":
        _check_mps(devices, config)
    if ":" in device:
        if devices > 1:
            raise UserError(
                f"--device {device} is one device, and --devices asks for {devices}. Leave one of them out."
            )
        return Hardware(chosen.type, [chosen.index or 0])
    return Hardware(chosen.type, devices)


def _check_mps(devices: int, config: TrainingConfig) -> None:
    """Raises UserError for what Apple's GPUs cannot do."""
    if devices > 1:
        raise UserError(f"--devices {devices}: there is one mps. Leave --devices out.")
    for setting, value, instead in (("base_dtype", "int8", "bfloat16"), ("optimizer", "adamw8bit", "adamw")):
        if getattr(config, setting) == value:
            raise UserError(f"{setting} {value} cannot run on mps. Set {setting} to {instead}, or use --device cpu.")


class DividedBase(WatchedModelParallel):
    """FSDP2 for the frozen base alone. What is trained is whole on every rank, so saving and resuming are as ever."""

    def __init__(self, ranks: int) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)

    # Checkpoints hold only what is whole on every rank: nothing to gather, the ordinary ways will do.
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer
    lightning_module_state_dict = Strategy.lightning_module_state_dict
    load_model_state_dict = Strategy.load_model_state_dict
    optimizer_state = Strategy.optimizer_state
    load_optimizer_state_dict = Strategy.load_optimizer_state_dict
    save_checkpoint = Strategy.save_checkpoint
    load_checkpoint = ParallelStrategy.load_checkpoint


def make_strategy(name: StrategyName, *, ranks: int, config: TrainingConfig) -> Strategy | str:
    """The strategy for Lightning's Trainer; "auto" is DDP for several ranks.

    Raises UserError for fsdp on one rank or with base_dtype int8.
    """
    if name != "fsdp":
        return WatchedDDP() if ranks > 1 or name == "ddp" else "auto"
    if ranks == 1:
        raise UserError("--strategy fsdp divides the base among devices, and this is one. Raise --devices or --nodes.")
    if config.base_dtype == "int8":
        raise UserError("base_dtype int8 cannot be divided by --strategy fsdp. Choose bfloat16, or --strategy ddp.")
    return DividedBase(ranks)


def divide(transformer: FlowNetwork, trained: Iterable[nn.Parameter], mesh: DeviceMesh) -> None:
    """Leave each rank its share of the frozen weights, fetched block by block when needed."""
    whole = set(trained)
    if (
        transformer.gradient_checkpointing
    ):  # inside the block: what is fetched for it must not be part of the repetition
        transformer.disable_gradient_checkpointing()
        for block in transformer.transformer_blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for block in (*transformer.transformer_blocks, transformer.lyric_encoder, transformer):
        fully_shard(block, mesh=mesh, ignored_params=whole)
    transformer.prepare = lambda conditions: conditions  # each block projects them itself, while its weights are there
    for method in ("encode", "decode"):  # the transformer is entered by these, not by forward
        register_fsdp_forward_method(transformer, method)


def average_gradients(trained: Iterable[nn.Parameter]) -> None:
    """What DDP does by itself, for weights that are whole on every rank."""
    ranks = torch.distributed.get_world_size()
    for parameter in trained:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks

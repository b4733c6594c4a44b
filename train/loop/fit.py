"""One run of `train run`: open what it needs, wire Lightning's Trainer, train, leave adapters behind."""

import logging
import signal
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import Strategy

from common.bases import BaseOrigin
from common.files import check_writable, whole_file
from models.adapters.adapter import save_adapter
from shards.manifest import Manifest
from train.config import TrainingConfig
from train.data.clips import Batch, ClipBatch
from train.data.loader import BatchLoader, room_in_memory
from train.devices.strategy import Hardware, StrategyName, hardware, make_strategy
from train.loop.callbacks import Milestones, ProgressDisplay, Save, SignalStop, announce
from train.loop.card import card_of
from train.loop.checkpoint import CHECKPOINTS, LAST, Best, check_resumable
from train.loop.course import PaceNotice, describe_adapters, describe_course
from train.loop.memory import training_memory_errors
from train.loop.module import AccompanimentModule
from train.loop.observe import EVERY_N_STEPS, TrainingCurves
from train.loop.preparation import Data, describe_split, find_base, make_data, make_module, open_shards
from train.loop.render import make_rendering


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended."""

    folder: Path  # logger_dir/exp_name/version_N
    adapter: Path  # the newest adapter folder
    best: Best | None  # highest x0_gain of those that listen to the vocal at 95 %
    step: int
    seconds: float
    figures: Mapping[str, float]  # latest validation, empty without
    interrupted_by: signal.Signals | None
    rank: int  # of this process among `devices`; 0 speaks for all


class SampleCaching(Callback):
    """Keeps the samples in memory, once the base has its room, or leaves them where they are: on all ranks alike."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        room = torch.tensor(room_in_memory(trainer.num_devices), device=trainer.strategy.root_device)
        least = trainer.strategy.reduce(room, reduce_op="min")  # nobody reads before all have looked
        divided = self._data.split
        keys = {segment.key for segment in divided.training}
        announce(describe_split(divided, in_memory=self._data.samples.remember(keys, room=int(least))))


class ShardDataModule(LightningDataModule):
    """Gives each rank its loader once Lightning has said which rank it is."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self._data = data

    def train_dataloader(self) -> BatchLoader:
        assert self.trainer is not None
        config = self._data.maker.config
        return BatchLoader(
            self._data.samples,
            self._data.split.training,
            self._data.maker,
            length=config.max_steps * config.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
        )

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> Batch:
        """Noise is drawn on the device that needs it."""
        return self._data.maker.with_noise(batch)


def fit(
    config: TrainingConfig,
    *,
    checkpoint_dir: str | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: StrategyName = "auto",
    resume_from: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train as `config` says on the shards in config.dataset_path. `resume_from` is a last.ckpt to go on from.

    `checkpoint_dir` is by default the checkpoint that made the shards; `callbacks` take part after our own.

    Raises UserError for everything a user can mend, before the first step where that can be known.
    """
    where = hardware(device, devices=devices, config=config)
    plan = make_strategy(strategy, ranks=devices * nodes, config=config)
    check_writable(resume_from.resolve().parents[1] if resume_from else Path(config.logger_dir, config.exp_name))
    shards = open_shards(config, features=config.ssl_coeff > 0)
    announce(describe_course(config, shards.manifest, shards.split.training, devices=devices * nodes))
    base = find_base(config, shards.manifest, checkpoint_dir)
    config = config.on(shards.manifest.spec)
    if resume_from is not None:
        check_resumable(resume_from, config, base.fingerprint)
    data = make_data(config, shards, variant=base.variant)
    module = make_module(config, base.folder, base.fingerprint, data)
    announce(describe_adapters(module))
    logger = _logger(config, resume_from)
    folder = Path(logger.log_dir)
    write_config(config, folder)

    interruption = SignalStop()
    milestones = Milestones(folder / CHECKPOINTS, _saver(data.manifest, base.origin), data.validation, interruption)
    taking_part: list[Callback] = [interruption, SampleCaching(data), TrainingCurves(), PaceNotice(), milestones]
    taking_part.append(ProgressDisplay())
    if config.render_every_n_steps:
        clips = data.validation.clips if data.validation else []
        rendering = make_rendering(config, clips, base.name, data.manifest)
        taking_part += [rendering] if rendering else []
    started = time.monotonic()
    trainer = take_steps(
        module,
        data,
        logger=logger,
        callbacks=[*taking_part, *callbacks],
        where=where,
        nodes=nodes,
        strategy=plan,
        resume_from=resume_from,
    )
    return TrainingResult(
        folder=folder,
        adapter=milestones.adapter,
        best=milestones.best,
        step=trainer.global_step,
        seconds=time.monotonic() - started,
        figures=milestones.figures,
        interrupted_by=interruption.received,
        rank=trainer.global_rank,
    )


def take_steps(
    module: AccompanimentModule,
    data: Data,
    *,
    logger: TensorBoardLogger,
    callbacks: Sequence[Callback],
    where: Hardware,
    nodes: int = 1,
    strategy: Strategy | str = "auto",
    resume_from: Path | None = None,
) -> Trainer:
    """Train a prepared module on prepared data for as many steps as its config says, or until a callback ends it.

    Raises UserError where memory does not suffice.
    """
    config = module.config
    with quiet_lightning():
        trainer = Trainer(
            accelerator=where.accelerator,
            devices=where.devices,
            num_nodes=nodes,
            strategy=strategy,
            max_steps=config.max_steps,
            accumulate_grad_batches=config.accumulate_grad_batches,
            gradient_clip_val=config.gradient_clip_val or None,
            logger=logger,
            callbacks=list(callbacks),
            log_every_n_steps=EVERY_N_STEPS,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")  # TF32, as upstream
        torch.manual_seed(config.seed)  # LoRA's dropout is the one thing that draws from the global generator
        try:
            with training_memory_errors(config, Path(logger.log_dir) / CHECKPOINTS / LAST):
                trainer.fit(module, datamodule=ShardDataModule(data), ckpt_path=resume_from, weights_only=True)
        except SystemExit as ended:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from ended
    return trainer


@contextmanager
def quiet_lightning() -> Generator[None]:
    """Keep Lightning's advice off stderr: the base is in eval mode on purpose, and we show our own progress."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
            yield
    finally:
        log.setLevel(level)


def _saver(manifest: Manifest, base: BaseOrigin) -> Save:
    def save(module: AccompanimentModule, folder: Path, figures: Mapping[str, float]) -> None:
        save_adapter(folder, module.transformer, module.conditioner, card_of(module, manifest, base, figures))

    return save


def _logger(config: TrainingConfig, resume_from: Path | None) -> TensorBoardLogger:
    """Writes to the next version folder, or to that of the run that goes on."""
    if resume_from is None:
        return TensorBoardLogger(config.logger_dir, name=config.exp_name)
    version = resume_from.resolve().parents[1]
    return TensorBoardLogger(version.parents[1], name=version.parent.name, version=version.name)


@rank_zero_only
def write_config(config: TrainingConfig, folder: Path) -> None:
    """Write folder/config.json, which `train run` takes as it is."""
    with whole_file(folder / "config.json") as partial:
        partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")

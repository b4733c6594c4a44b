"""One run of `train run`: open what it needs, wire Lightning's Trainer, train, leave adapters behind."""

import logging
import signal
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from common.errors import UserError
from common.files import whole_file
from common.progress import say
from models.adapter import AdapterCard, LoraCard, save_adapter
from models.checkpoint import open_transformer, part_hash, resolve_checkpoint
from models.lora import attach_lora
from models.sampler import SamplerSettings
from models.transformer import ACEStepTransformer2DModel
from shards.place import place_of
from shards.reader import read_manifest, read_shard
from shards.schema import Manifest
from train.callbacks import Interruption, Milestones, Save, ShownProgress
from train.checkpoint import CHECKPOINTS, check_resumable
from train.clips import Batch, ClipMaker, Clips
from train.config import TrainingConfig
from train.data import BatchLoader, ShardSamples, Split, check_manifest, split, target_of
from train.module import AccompanimentModule, conditioning_of
from train.plan import FEWEST_VALIDATION_SONGS
from train.validation import Validation

LOG_EVERY_N_STEPS = 10
announce = rank_zero_only(say)
NAIVE = (
    "objective naive is regression: its accompaniments have no diversity, and strength 0 is not text2music. "
    "bridge_vp is the default for a reason."
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path  # logger_dir/exp_name/version_N
    adapter: Path  # the newest adapter folder
    step: int
    seconds: float
    figures: Mapping[str, float]  # latest validation, empty without
    interrupted_by: signal.Signals | None
    rank: int  # of this process among `devices`; 0 speaks for all


@dataclass(frozen=True)
class Data:
    """The shards of a run, divided."""

    manifest: Manifest
    split: Split
    maker: ClipMaker
    samples: ShardSamples
    validation: Validation | None


class Batches(LightningDataModule):
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

    def on_after_batch_transfer(self, batch: Clips, dataloader_idx: int) -> Batch:
        """Noise is drawn on the device that needs it."""
        return self._data.maker.drawn(batch)


def fit(
    config: TrainingConfig, *, checkpoint_dir: str = "tiny", devices: int = 1, resume_from: Path | None = None
) -> Outcome:
    """Train as `config` says on the shards in config.dataset_path. `resume_from` is a last.ckpt to go on from.

    Raises UserError for everything a user can mend, before the first step where that can be known.
    """
    base = resolve_checkpoint(checkpoint_dir, ["ace_step_transformer"])
    fingerprint = part_hash(base, "ace_step_transformer")
    if resume_from is not None:
        check_resumable(resume_from, config, fingerprint)
    data = open_data(config)
    module = make_module(config, base, fingerprint, data)
    in_memory = data.samples.remember({segment.key for segment in data.split.training})  # once the base has its room
    announce(_described(data.split, in_memory=in_memory))
    logger = _logger(config, resume_from)
    folder = Path(logger.log_dir)
    _write_config(config, folder)

    interruption = Interruption()
    milestones = Milestones(folder / CHECKPOINTS, _saver(data.manifest, fingerprint), data.validation, interruption)
    with quiet_lightning():
        trainer = Trainer(
            devices=devices,
            max_steps=config.max_steps,
            accumulate_grad_batches=config.accumulate_grad_batches,
            gradient_clip_val=config.gradient_clip_val or None,
            logger=logger,
            callbacks=[interruption, milestones, ShownProgress()],
            log_every_n_steps=LOG_EVERY_N_STEPS,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")  # TF32, as upstream
        torch.manual_seed(config.seed)  # LoRA's dropout is the one thing that draws from the global generator
        started = time.monotonic()
        trainer.fit(module, datamodule=Batches(data), ckpt_path=resume_from, weights_only=True)
    return Outcome(
        folder=folder,
        adapter=milestones.adapter,
        step=trainer.global_step,
        seconds=time.monotonic() - started,
        figures=milestones.figures,
        interrupted_by=interruption.received,
        rank=trainer.global_rank,
    )


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


def open_data(config: TrainingConfig) -> Data:
    """The shards of a run. Raises UserError if they are missing or cannot train it."""
    place = place_of(config.dataset_path)
    manifest = read_manifest(place)
    check_manifest(manifest, config)
    assert manifest.statistics is not None
    maker = ClipMaker(config, conditioning_of(config), manifest.statistics)
    divided = split(manifest, config.val_fraction)
    samples = ShardSamples(place, manifest, target_of(config))
    shards = sorted({segment.shard for segment in divided.validation})
    asked = samples.load(shards, {segment.key for segment in divided.validation})
    validation = Validation(asked, maker) if len(asked) >= FEWEST_VALIDATION_SONGS else None
    return Data(manifest, divided, maker, samples, validation)


def make_module(config: TrainingConfig, base: Path, fingerprint: str, data: Data) -> AccompanimentModule:
    """The base with fresh adapters, ready to train."""
    transformer = open_transformer(base, dtype=getattr(torch, config.base_dtype or "float32"))
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    report = attach_lora(
        transformer,
        rank=config.lora.r,
        alpha=config.lora.lora_alpha,
        target_modules=config.lora.target_modules,
        use_rslora=config.lora.use_rslora,
        dropout=config.lora.lora_dropout,
        use_dora=config.lora.use_dora,
        blocks=config.lora.blocks,
        seed=config.seed,
    )
    conditioner = data.maker.conditioning.make_conditioner(transformer, seed=config.seed)
    if data.maker.conditioning.objective == "naive":
        announce(NAIVE)
    _check_features(config, transformer, data)
    module = AccompanimentModule(config, transformer, conditioner, base_fingerprint=fingerprint)
    own = sum(parameter.numel() for parameter in module.trained.values()) - report.parameters
    frozen = sum(parameter.numel() for parameter in transformer.parameters() if not parameter.requires_grad)
    announce(
        f"{config.accompaniment.mode}: training {report.parameters:,} numbers of LoRA in {len(report.modules)} layers "
        f"and {own:,} of the vocal's own path; {frozen:,} stay frozen in {config.base_dtype or 'float32'}"
    )
    return module


def _check_features(config: TrainingConfig, transformer: ACEStepTransformer2DModel, data: Data) -> None:
    """SSL losses need features in the shards and look at the blocks that the base's projectors were made for."""
    if config.ssl_coeff == 0:
        return
    sample = next(read_shard(place_of(config.dataset_path), data.manifest.shards[0]))
    if sample.inst_mert is None and sample.mix_mert is None:
        announce(
            "these shards hold no SSL features: training without feature losses (prep build-shards --ssl makes them)"
        )
        return
    depths = tuple(transformer.config["ssl_encoder_depths"])
    if config.ssl_depths != depths:
        raise UserError(
            f"ssl_depths {list(config.ssl_depths)}: this base projects the states after blocks {list(depths)}. "
            f"Set ssl_depths to {list(depths)}, or ssl_coeff to 0."
        )


def _saver(manifest: Manifest, fingerprint: str) -> Save:
    def save(module: AccompanimentModule, folder: Path, figures: Mapping[str, float]) -> None:
        card = _card(module, manifest, fingerprint, figures)
        save_adapter(folder, module.transformer, module.conditioner, card)

    return save


def _card(
    module: AccompanimentModule, manifest: Manifest, fingerprint: str, figures: Mapping[str, float]
) -> AdapterCard:
    config = module.config
    assert manifest.statistics is not None
    return AdapterCard(
        conditioning=conditioning_of(config),
        output_type=config.accompaniment.output_type,
        reference_strength=config.accompaniment.reference_strength,
        strength_range=config.accompaniment.strengths,
        lora=LoraCard(
            r=config.lora.r,
            lora_alpha=config.lora.lora_alpha,
            use_rslora=config.lora.use_rslora,
            use_dora=config.lora.use_dora,
            target_modules=config.lora.target_modules,
            blocks=config.lora.blocks,
        ),
        lora_weight=1.0,
        sampler=SamplerSettings(shift=config.shift),
        statistics=manifest.statistics,
        vocal_lufs=manifest.vocal_lufs,
        base_fingerprint=fingerprint,
        shards_fingerprint=manifest.fingerprint.digest,
        epoch=module.data_epoch,
        step=module.global_step,
        validation=dict(figures),
    )


def _logger(config: TrainingConfig, resume_from: Path | None) -> TensorBoardLogger:
    """Writes to the next version folder, or to that of the run that goes on."""
    if resume_from is None:
        return TensorBoardLogger(config.logger_dir, name=config.exp_name)
    version = resume_from.resolve().parents[1]
    return TensorBoardLogger(version.parents[1], name=version.parent.name, version=version.name)


@rank_zero_only
def _write_config(config: TrainingConfig, folder: Path) -> None:
    with whole_file(folder / "config.json") as partial:
        partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _described(divided: Split, *, in_memory: bool) -> str:
    songs = len({segment.song for segment in divided.training})
    kept = f"{len(divided.validation)} songs to validate on" if divided.validation else "no songs to validate on"
    where = "in memory" if in_memory else "streamed"
    return f"{songs} songs, {len(divided.training)} segments to train on ({where}); {kept}"

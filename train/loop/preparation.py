"""What a run needs before its first step: the shards, divided, and the base with fresh adapters."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from common.bases import BaseOrigin
from common.errors import UserError
from models.adapters.adapter import AdapterCard, read_card
from models.adapters.conditioning import AdapterConditioner
from models.adapters.lora import attach_lora
from models.adapters.start import start_from
from models.loading.checkpoint import open_transformer, part_hash, resolve_checkpoint, spec_of, variant_of
from models.loading.family import check_belongs, choose_checkpoint, describe_base, known_base
from models.loading.int8 import to_int8
from models.protocols import FlowNetwork
from shards.held_out import FEWEST_VALIDATION_SONGS
from shards.location import location_of
from shards.manifest import Manifest
from shards.reader import read_manifest, read_shard
from shards.schema import Sample
from train.config import TrainingConfig
from train.data.clips import ClipMaker, features_of, target_of
from train.data.loader import ShardSamples, Split, check_manifest, lead_sheets, split
from train.loop.callbacks import announce
from train.loop.card import lora_of
from train.loop.memory import estimated_bytes, in_gib
from train.loop.module import AccompanimentModule, conditioning_of
from train.loop.validation import FEWEST_CLIPS, Validation

NAIVE = (
    "objective naive is regression: its accompaniments have no diversity, and strength 0 is not text2music. "
    "bridge_vp is the default for a reason."
)


@dataclass(frozen=True)
class Shards:
    """Opened shards, divided; the same for all runs that look at the same songs for the same target."""

    manifest: Manifest
    """Its latent statistics are those of the adapter that a run starts from, if it starts from one."""
    split: Split
    samples: ShardSamples


@dataclass(frozen=True)
class Data:
    """The shards of a run, divided, and how it sees them."""

    manifest: Manifest
    split: Split
    maker: ClipMaker
    samples: ShardSamples
    validation: Validation | None


@dataclass(frozen=True)
class Base:
    """The checkpoint of a run."""

    name: str
    folder: Path
    fingerprint: str
    """Hash of its transformer."""
    variant: str
    """Which of its base model's variants it is."""
    origin: BaseOrigin
    """Written into adapter.json."""


def find_base(config: TrainingConfig, manifest: Manifest, given: str | None) -> Base:
    """The checkpoint that is `given`, else the one that made the shards.

    Raises UserError where there is none, and where the shards were made by another codec or text encoder than belong to
    its transformer.
    """
    name = choose_checkpoint(given, base_of_shards(manifest), config.dataset_path)
    part = spec_of(name).parts.transformer
    folder = resolve_checkpoint(name, [part])
    check_shards(config, manifest, name, folder, [part])
    return Base(name, folder, part_hash(folder, part), variant_of(folder), describe_base(name, folder, part))


def base_of_shards(manifest: Manifest) -> BaseOrigin:
    """The base model of shards, as far as it is known."""
    return known_base(manifest.base, manifest.fingerprint.networks.values())


def check_shards(config: TrainingConfig, manifest: Manifest, name: str, folder: Path, parts: Sequence[str]) -> None:
    """Raises UserError where `parts` of a checkpoint do not belong to the networks that made the shards."""
    networks = manifest.fingerprint.networks
    check_belongs(config.dataset_path, base_of_shards(manifest), networks, name, folder, parts=parts)


def open_shards(config: TrainingConfig, *, features: bool) -> Shards:
    """The shards of a run. `features`: whether to read SSL features, which are by far the largest part of a sample.

    Raises UserError if the shards are missing or cannot train it, or the adapter to start from is missing.
    """
    place = location_of(config.dataset_path)
    manifest = read_manifest(place)
    check_manifest(manifest, config)
    if config.init_from is not None:
        started = read_card(Path(config.init_from))
        if manifest.statistics is None or started.statistics.shape != manifest.statistics.shape:
            raise UserError(f"{config.init_from}: cannot start from it: these shards hold latents of another base.")
        manifest = manifest.model_copy(update={"statistics": started.statistics})
    lyrics = config.accompaniment.lyrics
    samples = ShardSamples(place, manifest, target_of(config), features=features, lyrics=lyrics)
    return Shards(manifest, split(manifest, config.val_fraction), samples)


def make_data(
    config: TrainingConfig, shards: Shards, *, variant: str = "base", reuse_base_of: Validation | None = None
) -> Data:
    """Opened shards as a run on a `variant` of their base model sees them.

    `reuse_base_of`, of the same songs, lends its losses of the frozen base.

    Raises UserError if a sample is not where the manifest says.
    """
    assert shards.manifest.statistics is not None
    spec = shards.manifest.spec
    maker = ClipMaker(
        config, conditioning_of(config), shards.manifest.statistics, spec, levels=spec.noise_levels[variant]
    )
    validated = shards.split.validation
    transposed = shards.split.transposed
    wanted = [*validated, *(copy for copies in transposed.values() for copy in copies)]
    loaded = shards.samples.load(sorted({one.shard for one in wanted}), {one.key for one in wanted})
    if len(validated) < FEWEST_VALIDATION_SONGS:
        return Data(shards.manifest, shards.split, maker, shards.samples, validation=None)
    validation = Validation(
        {one.key: loaded[one.key] for one in validated},
        maker,
        transposed={key: [loaded[copy.key] for copy in copies] for key, copies in transposed.items()},
        reuse_base_of=reuse_base_of,
    )
    return Data(shards.manifest, shards.split, maker, shards.samples, validation)


def make_module(config: TrainingConfig, base: Path, fingerprint: str, data: Data) -> AccompanimentModule:
    """The base with fresh adapters, ready to train; says what is trained and how much memory that should take."""
    transformer = open_base(config, base)
    if config.ssl_coeff:
        check_features(config, next(read_shard(location_of(config.dataset_path), data.manifest.shards[0])))
    return _with_adapters(config, transformer, fingerprint, data)


@contextmanager
def adapters_on(
    transformer: FlowNetwork, config: TrainingConfig, fingerprint: str, data: Data
) -> Generator[AccompanimentModule]:
    """An opened base with fresh adapters for as long as the block runs; afterwards the base is what it was."""
    try:
        yield _with_adapters(config, transformer, fingerprint, data)
    finally:
        transformer.unload_lora()
        if config.compile:
            forget_compiled(transformer)


def _with_adapters(
    config: TrainingConfig, transformer: FlowNetwork, fingerprint: str, data: Data
) -> AccompanimentModule:
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
    if config.accompaniment.lead_sheet is not None:
        songs = data.manifest.totals.songs
        announce(f"lead sheets: {lead_sheets(data.manifest)} of {songs} songs have one; the others train without")
    started = None if config.init_from is None else _started(config, transformer, conditioner, fingerprint)
    if config.compile:
        compile_blocks(transformer)
    module = AccompanimentModule(config, transformer, conditioner, base_fingerprint=fingerprint, started=started)
    own = sum(parameter.numel() for parameter in module.trained.values()) - report.parameters
    frozen = sum(parameter.numel() for parameter in transformer.parameters() if not parameter.requires_grad)
    announce(
        f"{config.accompaniment.mode}: training {report.parameters:,} numbers of LoRA in {len(report.modules)} layers "
        f"and {own:,} of the vocal's own path; {frozen:,} stay frozen in {config.base_dtype or 'float32'}; "
        f"estimated peak memory {in_gib(estimated_bytes(module))}"
    )
    return module


def _started(
    config: TrainingConfig, transformer: FlowNetwork, conditioner: AdapterConditioner | None, fingerprint: str
) -> AdapterCard:
    """The card of the adapter that a run starts from, whose weights it gets; what is different now is said."""
    folder = Path(config.init_from or "")
    card = start_from(
        folder,
        transformer,
        conditioner,
        lora=lora_of(config),
        conditioning=conditioning_of(config),
        base_fingerprint=fingerprint,
    )
    now = {
        "output_type": config.accompaniment.output_type,
        "lyrics_content": config.accompaniment.lyrics,
        "strength_range": config.accompaniment.strengths,
    }
    changed = [
        f"{name} was {getattr(card, name)} and is {value}"
        for name, value in now.items()
        if getattr(card, name) != value
    ]
    announce("; ".join([f"starting from {folder} (step {card.step})", *changed]))
    return card


def compile_blocks(transformer: FlowNetwork) -> None:
    """Let torch compile the blocks, each at its first call."""
    for block in transformer.transformer_blocks:
        block.compile()


def forget_compiled(transformer: FlowNetwork) -> None:
    """Let the blocks run as they are; torch stops compiling what it had to compile anew too often."""
    for block in transformer.transformer_blocks:
        block._compiled_call_impl = None
    torch.compiler.reset()


def open_base(config: TrainingConfig, base: Path) -> FlowNetwork:
    """The frozen transformer in the number format that `config` wants."""
    wanted = config.base_dtype or "float32"
    transformer = open_transformer(base, dtype=torch.float32 if wanted == "float32" else torch.bfloat16)
    if wanted == "int8":
        to_int8(transformer)
        transformer.eval()
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return transformer


def check_features(config: TrainingConfig, sample: Sample) -> None:
    """Say so where the shards hold no features for the SSL losses."""
    if all(array is None for array in features_of(sample, config)):
        announce(
            "these shards hold no SSL features: training without feature losses (prep build-shards --ssl makes them)"
        )


def describe_split(divided: Split, *, in_memory: bool) -> str:
    """How many songs and segments are trained and validated on, in one line."""
    songs = len({segment.song for segment in divided.training})
    kept = f"{len(divided.validation) or 'no'} songs to validate on"
    if 0 < len(divided.validation) < FEWEST_CLIPS:
        kept += f", too few to be sure that a model listens to the vocal: {FEWEST_CLIPS} would do"
    where = "in memory" if in_memory else "streamed"
    return f"{songs} songs, {len(divided.training)} segments to train on ({where}); {kept}"

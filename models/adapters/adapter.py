"""An adapter folder: LoRA weights, the vocal's own path into the network, and adapter.json, the card that says how.

pytorch_lora_weights.safetensors                             any LoRA loader reads it
source_projection.safetensors | control_encoder.safetensors  how the network sees the vocal (one, or none)
lead_sheet_encoder.safetensors                               how it sees a lead sheet, if it takes one
harmoniser/                                                  infers lead sheets for it, if it has one of its own
adapter.json                                                 written last
"""

import json
import os
import shutil
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from common.bases import BaseOrigin, check_statistics, recorded_spec
from common.config import Config, check_config, read_json
from common.errors import UserError
from common.files import flush, whole_file
from common.latents import LatentStatistics
from common.texts.lyrics import LyricsContent
from models.adapters.conditioning import AdapterConditioner, Conditioning
from models.adapters.lora import check_whole, load_lora, save_lora
from models.flow.conditioning import Objective, SourceProjection
from models.flow.control import ControlEncoder
from models.flow.lead_sheet import VocalAndLeadSheet
from models.flow.sampler import SamplerSettings
from models.loading.family import check_belongs, known_base
from models.protocols import FlowNetwork

CARD_FILE = "adapter.json"
PROJECTION_FILE = "source_projection.safetensors"
CONTROL_FILE = "control_encoder.safetensors"
LEAD_SHEET_FILE = "lead_sheet_encoder.safetensors"
HARMONISER_FOLDER = "harmoniser"


class LoraCard(Config):
    """The LoRA as it was trained; the file itself holds it at scale 1."""

    r: int
    lora_alpha: int
    use_rslora: bool
    use_dora: bool
    target_modules: tuple[str, ...]
    blocks: tuple[int, int] | None


class AdapterCard(Config):
    """adapter.json. What it leaves out has its default: strength 0.5, weight 0.8, 60 steps, guidance 15."""

    format: Literal[1] = 1
    conditioning: Conditioning
    output_type: Literal["accompaniment", "mix"]
    """What it makes: the band alone, or vocal and band together."""
    reference_strength: float = 0.5
    """Strength to use by default."""
    strength_range: tuple[float, float]
    """Strengths it was trained with."""
    lora: LoraCard | None
    """Null where it is merged into the transformer that `train export` wrote beside it."""
    lora_weight: float = 0.8
    """Recommended weight of the LoRA."""
    sampler: SamplerSettings = SamplerSettings()
    """Recommended sampler settings; shift is the one it was trained with."""
    statistics: LatentStatistics
    """How vocals are normalised."""
    vocal_lufs: float | None
    """Loudness of the training vocals, to which a vocal is brought before it is encoded; null where unknown."""
    lyrics_language: str = "en"
    """Language that the lyrics of the training songs were read in."""
    lyrics_content: LyricsContent = "words"
    """What of the lyrics it was trained with."""
    base: BaseOrigin | None = None
    """The base model it was trained on; null in adapters that do not say."""
    base_fingerprint: str
    """Hash of the transformer it was trained on."""
    networks: dict[str, str] = Field(default_factory=dict)
    """Hash of each network that made the data: codec, text encoder, lyric vocabulary."""
    shards_fingerprint: str
    """Hash of the data it was trained on."""
    init_shards_fingerprint: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """The same of the adapter that its training started from; absent where it started from nothing."""
    val_fraction: float | None = Field(default=None, exclude_if=lambda fraction: fraction is None)
    """Share of the songs that its training kept for validation; absent in adapters that do not say."""
    harmoniser: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """Hash of the harmoniser in its folder; absent where it has none, and the one inside Backline is used."""
    epoch: int
    step: int
    """Optimiser steps behind it."""
    validation: dict[str, float] = Field(default_factory=dict)
    """Latest validation figures, by name."""

    @model_validator(mode="after")
    def _of_its_base(self) -> Self:
        check_statistics(self.statistics, recorded_spec(self.base))
        return self


@dataclass(frozen=True)
class Adapter:
    """An opened adapter; its LoRA is active in the transformer."""

    card: AdapterCard
    objective: Objective
    conditioner: AdapterConditioner | None


def save_adapter(
    folder: Path,
    transformer: FlowNetwork,
    conditioner: AdapterConditioner | None,
    card: AdapterCard,
) -> None:
    """Write the attached LoRA, the conditioner and the card. The folder appears whole, replacing an older one.

    Raises UserError where the disk refuses.
    """
    with whole_folder(folder) as partial:
        save_lora(transformer, partial)
        save_conditioning(partial, conditioner, card)


def save_conditioning(folder: Path, conditioner: AdapterConditioner | None, card: AdapterCard) -> None:
    """Write all of an adapter but its LoRA into a folder; the card last."""
    for name, network in _files(conditioner).items():
        weights = {weight: tensor.cpu().contiguous() for weight, tensor in network.state_dict().items()}
        save_file(weights, folder / name)
    _write(card, folder / CARD_FILE)


def rewrite_card(folder: Path, card: AdapterCard) -> None:
    """Put a card in the place of the one that an adapter has. Raises UserError where the disk refuses."""
    with whole_file(folder / CARD_FILE) as partial:
        _write(card, partial)


def _write(card: AdapterCard, path: Path) -> None:
    written = json.dumps(card.model_dump(mode="json"), indent=2)
    path.write_text(written + "\n", encoding="utf-8", newline="\n")


def read_card(folder: Path) -> AdapterCard:
    """The card of an adapter folder. Raises UserError if there is none, or it is not ours."""
    if not (folder / CARD_FILE).is_file():
        raise UserError(
            f"{folder}: no {CARD_FILE} inside. Give a folder that `train run` wrote (checkpoints/..._lora)."
        )
    return check_config(AdapterCard, read_json(folder / CARD_FILE), str(folder / CARD_FILE))


def base_of(card: AdapterCard) -> BaseOrigin:
    """The base model of an adapter, as far as it is known."""
    return known_base(card.base, [card.base_fingerprint])


def check_adapter(folder: Path, card: AdapterCard, name: str, checkpoint: Path, *, parts: Collection[str]) -> None:
    """Raises UserError unless `parts` of the checkpoint `name` belong to the codec and text encoder of its training."""
    wanted = {*parts, base_of(card).spec.lyric_vocabulary}
    used = {part: digest for part, digest in card.networks.items() if part in wanted}
    check_belongs(folder, base_of(card), used, name, checkpoint, parts=parts)


def open_adapter(
    folder: Path, transformer: FlowNetwork, *, weight: float, base_fingerprint: str, name: str = "adapter"
) -> Adapter:
    """Load an adapter into `transformer` under a `name` of its own, active with `weight`, everything frozen.

    Raises UserError if a file is missing or does not fit, or if `base_fingerprint` (part_hash of the transformer) is
    not that of the base it was trained on, where adapters are of one checkpoint alone.
    """
    card = read_card(folder)
    if card.base_fingerprint != base_fingerprint and not transformer.spec.shares_adapters:
        raise UserError(
            f"{folder}: made for the base {card.base_fingerprint[:8]}, this one is {base_fingerprint[:8]}. "
            "Give the --checkpoint-dir that it was trained with."
        )
    conditioner = card.conditioning.make_conditioner(transformer)
    load_conditioner(conditioner, folder)
    if conditioner is not None:
        conditioner.to(transformer.device).eval().requires_grad_(False)
    if card.lora is not None:
        check_whole(transformer, folder, target_modules=card.lora.target_modules, blocks=card.lora.blocks)
        load_lora(transformer, folder, name=name, weight=weight)
    elif weight != 1:
        raise UserError(f"{folder}: its LoRA is merged into the base, so that its weight is 1, not {weight:g}.")
    return Adapter(card, card.conditioning.make_objective(), conditioner)


def load_conditioner(conditioner: AdapterConditioner | None, folder: Path) -> None:
    """Read a conditioner's weights. Raises UserError for a file that is missing, broken or of another shape."""
    for file, network in _files(conditioner).items():
        _load_weights(network, folder / file)


@contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """Give a temporary folder to fill; when the block ends well it is flushed and renamed to `folder`.

    Whatever fails, a folder that lies there already stays as it was.
    Raises UserError where the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    replaced = partial.with_suffix(".old")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # a process of our number was killed here
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        _replace(folder, partial, replaced)
        flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({getattr(error, 'strerror', None) or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, partial: Path, replaced: Path) -> None:
    """Rename `partial` to `folder`; one that lies there is `replaced` until then, and comes back if that fails."""
    try:
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _files(conditioner: AdapterConditioner | None) -> dict[str, nn.Module]:
    """File -> network whose weights it holds."""
    match conditioner:
        case None:
            return {}
        case VocalAndLeadSheet():
            return {**_files(conditioner.vocal), LEAD_SHEET_FILE: conditioner.lead_sheet}
        case ControlEncoder():
            return {CONTROL_FILE: conditioner}
        case SourceProjection():
            return {PROJECTION_FILE: conditioner}


def _load_weights(module: nn.Module, path: Path) -> None:
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the adapter is not complete. Copy the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}).") from None
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if given != expected:
        names = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise UserError(f"{path}: {_listed(names)} not as this transformer needs. Use the base it was made for.")
    module.load_state_dict(weights)


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"

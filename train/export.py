"""Adapters for other programs: a LoRA file or folder, or a whole transformer. Each is read back and compared."""

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save
from torch import Tensor

from common.bases import BaseOrigin
from common.errors import UserError
from common.files import check_writable, whole_file
from common.progress import say
from models.adapters.adapter import Adapter, LoraCard, base_of, open_adapter, read_card, save_conditioning, whole_folder
from models.adapters.lora import LORA_FILE, apply_plainly, bare_weights, merge_lora
from models.adapters.style import PEFT_CONFIG, PEFT_FILE, find_style, load_style
from models.loading.checkpoint import open_transformer, part_hash, resolve_checkpoint, save_transformer, spec_of
from models.loading.family import choose_checkpoint, family_of
from models.protocols import FlowNetwork

LIMIT = 1e-4
"""Largest difference of an export's outputs from the adapter's, against outputs of size 1."""
PEFT_PREFIX = "base_model.model."
KIND = re.compile(r"\.(?=lora_|dora_scale)")
"""Between a layer's name and what of its LoRA a weight is."""
NO_CONDITIONING = (
    "this file carries no vocal conditioning: other programs will play in the trained style, but ignore the vocal. "
    "Accompaniments for a vocal come from infer generate, with the adapter folder."
)
BY_SOURCE = (
    "other programs hear a vocal with this only as the source of their task complete, at full strength and at the "
    "vocal's own level; text2music plays in the trained style without one. Strength, level, lead sheet and sampler "
    "come from infer generate, with the adapter folder."
)
"""Of an adapter that hears the vocal through the slot that the base itself has for a source."""
DORA = (
    "this LoRA is DoRA, written for ComfyUI's formula; other programs compute DoRA otherwise, and diffusers leaves the "
    f"magnitudes of this file out: give them the adapter folder's {LORA_FILE}, or --format merged."
)


def export_comfyui(folder: Path, out: Path, checkpoint_dir: str | None = None) -> None:
    """Write the LoRA of an adapter folder as one file that ComfyUI applies as we do, at strength 1.

    Its update is lora_B @ lora_A, whatever a loader does of alpha; DoRA follows ComfyUI's formula (`bare_weights`).
    Raises UserError if `out` exists or has another ending, or the adapter does not fit the base.
    """
    _check_free(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the file is written as .safetensors. Give it that ending.")
    base, _ = _find_base(folder, checkpoint_dir)
    lora, expected = _lora_of(folder, base)
    transformer = open_transformer(base)
    weights = bare_weights(folder, transformer)
    names = {name: _exported(name, transformer.comfyui_prefix, transformer) for name in weights}
    with whole_file(out) as partial:
        partial.write_bytes(save({names[name]: weights[name] for name in weights}, metadata={"format": "pt"}))
        written = load_file(partial)
        apply_plainly(transformer, {name: written[theirs] for name, theirs in names.items()})
        _compare(out, transformer, expected)
    _say_what_is_left_out(folder)
    if lora.use_dora:
        say(f"warning: {DORA}")


def export_peft(folder: Path, out: Path, checkpoint_dir: str | None = None) -> None:
    """Write the LoRA of an adapter folder as a folder of PEFT's layout, with the names of the base's own tools.

    Raises UserError if `out` exists, or the adapter does not fit the base.
    """
    _check_free(out)
    base, _ = _find_base(folder, checkpoint_dir)
    lora, expected = _lora_of(folder, base)
    transformer = open_transformer(base)
    held = load_file(folder / LORA_FILE)
    weights = {_exported(name, PEFT_PREFIX, transformer): tensor for name, tensor in held.items()}
    layers = sorted({name.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for name in weights})
    config = LoraConfig(r=lora.r, lora_alpha=lora.r, target_modules=layers, use_dora=lora.use_dora).to_dict()
    with whole_folder(out) as partial:
        (partial / PEFT_FILE).write_bytes(save(weights, metadata={"format": "pt"}))
        written = json.dumps(config, indent=2, sort_keys=True, default=sorted)
        (partial / PEFT_CONFIG).write_text(written + "\n", encoding="utf-8", newline="\n")
        load_style(transformer, find_style(partial, 1.0), name="exported")
        _compare(out, transformer, expected)
    _say_what_is_left_out(folder)


def _say_what_is_left_out(folder: Path) -> None:
    is_by_source = read_card(folder).conditioning.mode == "context"
    say(f"warning: {BY_SOURCE if is_by_source else NO_CONDITIONING}")


def _lora_of(folder: Path, base: Path) -> tuple[LoraCard, Tensor]:
    """An adapter's LoRA, and what the base answers with it."""
    transformer = open_transformer(base)
    lora = _open(folder, transformer, base, weight=1.0).card.lora
    if lora is None:
        raise UserError(
            f"{folder}: its LoRA is merged into a transformer already. Give the folder that train run wrote."
        )
    return lora, made_up_answer(transformer)


def _exported(name: str, prefix: str, transformer: FlowNetwork) -> str:
    """What a file of another program calls a weight of a LoRA."""
    layer = KIND.split(name, maxsplit=1)[0]
    return f"{prefix}{transformer.exported_layer(layer)}{name.removeprefix(layer)}"


def export_merged(folder: Path, out: Path, checkpoint_dir: str | None = None) -> None:
    """Write the base with the adapter's LoRA in its weights, float32, in the published layout, and the vocal's path.

    `out` is then both: a checkpoint folder (of which it holds the transformer), and an adapter folder for it.
    Raises UserError if `out` exists, or the adapter does not fit the base.
    """
    _check_free(out)
    base, part = _find_base(folder, checkpoint_dir)
    transformer = open_transformer(base)
    adapter = _open(folder, transformer, base, weight=read_card(folder).lora_weight)
    expected = made_up_answer(transformer)
    merge_lora(transformer)
    with whole_folder(out) as partial:
        save_transformer(transformer, base, partial)
        merged = {"lora": None, "lora_weight": 1.0, "base_fingerprint": part_hash(partial, part)}
        merged["base"] = BaseOrigin(model=spec_of(base).name, family=family_of(partial, part))
        save_conditioning(partial, adapter.conditioner, adapter.card.model_copy(update=merged))
        del transformer
        transformer = open_transformer(partial)
        _open(partial, transformer, partial, weight=1.0)
        _compare(out, transformer, expected)


def _find_base(folder: Path, checkpoint_dir: str | None) -> tuple[Path, str]:
    """The base of an adapter, and the name of its transformer."""
    name = choose_checkpoint(checkpoint_dir, base_of(read_card(folder)), folder)
    part = spec_of(name).parts.transformer
    return resolve_checkpoint(name, [part]), part


@torch.no_grad()
def made_up_answer(transformer: FlowNetwork) -> Tensor:
    """What a transformer makes of a fixed input that goes through every layer an adapter may sit on."""
    latents, conditions = transformer.example(torch.Generator().manual_seed(0))
    return transformer.decode(latents, torch.tensor([500.0]), conditions).sample


def _open(folder: Path, transformer: FlowNetwork, base: Path, *, weight: float) -> Adapter:
    return open_adapter(
        folder, transformer, weight=weight, base_fingerprint=part_hash(base, spec_of(base).parts.transformer)
    )


def _compare(out: Path, transformer: FlowNetwork, expected: Tensor) -> None:
    difference = (made_up_answer(transformer) - expected).abs().max().item()
    limit = LIMIT * max(1.0, expected.abs().max().item())
    if difference > limit:
        raise UserError(
            f"{out}: read back, its outputs differ from the adapter's by {difference:.2g} (limit {limit:.2g}); nothing "
            "was kept. Check the disk, and the adapter with infer generate."
        )
    say(f"{out}: read back, its outputs differ from the adapter's by {difference:.1g}")


def _check_free(out: Path) -> None:
    """Raises UserError where `out` is taken or cannot be written, before a network is opened."""
    if out.exists():
        raise UserError(f"{out}: exists already. Choose another name, or remove it.")
    check_writable(out.parent)

"""A LoRA that other programs made for the same base: it changes how the network plays, whatever the vocal is.

They hand LoRAs around in several layouts; each becomes MODULE.lora_A.weight and MODULE.lora_B.weight at scale 1.

    an adapter_config.json beside, or in the file's header   scale is its alpha / r, or alpha / sqrt(r) with rsLoRA
    MODULE.alpha beside each pair                            scale is alpha / r
    neither                                                  scale is 1, as ACE-Step and ComfyUI take it

r rank.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft.utils.other import get_pattern_key
from pydantic import ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from common.config import Config, check_config, parse_json, read_json
from common.errors import UserError
from common.progress import say
from models.adapters.lora import LORA_FILE, MAGNITUDE, check_fit, lora_scale, shapes_in
from models.protocols import FlowNetwork

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
"""In front of the transformer's own names: PEFT's, ComfyUI's, diffusers'."""
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
"""In front of names with _ for each dot: kohya's, OneTrainer's, SimpleTuner's."""
KINDS = {
    "A": r"\.lora_A(?:\.\w+)?\.weight|\.lora[._]down\.weight",
    "B": r"\.lora_B(?:\.\w+)?\.weight|\.lora[._]up\.weight",
    "alpha": r"\.alpha",
    "magnitude": r"\.lora_magnitude_vector(?:\.\w+)*",
    "dora_scale": r"\.dora_scale",
}
"""How a key ends that holds a half of the update, its alpha, or the length of DoRA's rows, PEFT's or ComfyUI's."""
FRESH_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base as it is."""


class PeftConfig(Config):
    """What of PEFT's configuration decides the update."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str = "LORA"
    lora_alpha: float
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    init_lora_weights: bool | str | None = True


@dataclass(frozen=True)
class Style:
    """A file that holds a LoRA, and the weight of its update."""

    path: Path
    config: PeftConfig | None  # None where nothing beside the weights says anything
    weight: float


def find_style(named: Path, weight: float) -> Style:
    """The LoRA in a file, or in a folder that holds one. Only the file's header is read.

    Raises UserError for a pickle, for what is no safetensors file, and for keys of an unknown layout.
    """
    path = _file_of(named)
    keys = list(shapes_in(path))
    unknown = [key for key in keys if _parse(key) is None]
    if unknown or not keys:
        shown = ", ".join(unknown[:2]) + (f" and {len(unknown) - 2} more" if len(unknown) > 2 else "")
        raise UserError(
            f"{path}: {shown or 'no weights inside'}: not the keys of a LoRA that is known here (lora_A and lora_B, or "
            "lora_down and lora_up). Convert it, or use another."
        )
    return Style(path, _config_of(path), weight)


def load_style(transformer: FlowNetwork, style: Style, *, name: str) -> None:
    """Add the LoRA of a style under `name`, at scale 1. Raises UserError if it does not fit this transformer."""
    found = _by_layer(style.path, _names_of_layers(transformer))
    if style.config is None and not any("alpha" in parts for parts in found.values()):
        say(f"{style.path}: says no alpha; its update is taken as it stands, as ACE-Step and ComfyUI do.")
    names = {"A": ".lora_A.weight", "B": ".lora_B.weight", "magnitude": MAGNITUDE, "dora_scale": MAGNITUDE}
    weights = {
        f"{layer}{name}": found[layer][kind]
        for layer in sorted(found)
        for kind, name in names.items()
        if kind in found[layer]
    }
    check_fit(transformer, style.path, {key: list(tensor.shape) for key, tensor in weights.items()})
    for layer, parts in found.items():
        parts["B"] *= _scale(layer, parts, style)  # in place, in `weights` too
        if "dora_scale" in parts:
            matrix = transformer.get_submodule(layer).get_parameter("weight")
            weights[f"{layer}{MAGNITUDE}"] = peft_magnitude(parts["dora_scale"], matrix, parts["B"] @ parts["A"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # beside adapters
        transformer.load_lora_adapter(weights, prefix=None, adapter_name=name)


def _names_of_layers(transformer: FlowNetwork) -> dict[str, str]:
    """What files may call each layer, without PREFIXES -> the transformer's own name."""
    layers = [layer for layer, _ in transformer.named_modules()]
    own = {layer.removeprefix(transformer.adapted_prefix): layer for layer in layers}
    return own | {transformer.exported_layer(layer): layer for layer in layers}


def _by_layer(path: Path, names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """What a file holds of each layer, under the transformer's own names: its KINDS, in float32."""
    known = {**{name.replace(".", "_"): layer for name, layer in names.items()}, **names}
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        parsed = _parse(key)
        assert parsed is not None, "find_style looked at every key"
        layer, kind = known.get(parsed[0], parsed[0]), parsed[1]
        if kind in found.setdefault(layer, {}):
            raise UserError(f"{path}: {kind} of {layer} is there twice, also as {key}. Leave one of them out.")
        found[layer][kind] = tensor.float()
    for layer, parts in found.items():
        if not parts.keys() & {"A", "B"}:
            kind = next(iter(parts))
            raise UserError(f"{path}: {kind} of {layer}, which has no lora_A and lora_B there. Copy the file again.")
        if "alpha" in parts and (count := parts["alpha"].numel()) != 1:
            raise UserError(f"{path}: alpha of {layer} holds {count} numbers, not one. Copy the file again.")
    return found


def peft_magnitude(dora_scale: Tensor, matrix: Tensor, update: Tensor) -> Tensor:
    """PEFT's m [n] = dora_scale * |W + B @ A| / |W| (lengths of rows): `bare_weights` the other way round."""
    base = matrix.detach().float().cpu()
    return (dora_scale * (base + update).norm(dim=1, keepdim=True) / base.norm(dim=1, keepdim=True)).squeeze(1)


def _scale(layer: str, parts: Mapping[str, Tensor], style: Style) -> float:
    rank, config = parts["B"].shape[-1], style.config
    if "alpha" in parts:
        return lora_scale(rank=rank, alpha=parts["alpha"].item(), use_rslora=False)
    if config is None:
        return 1.0
    alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), layer), config.lora_alpha)
    return lora_scale(rank=rank, alpha=alpha, use_rslora=config.use_rslora)


def _parse(key: str) -> tuple[str, str] | None:
    """The layer that a key speaks of, without prefixes, and what of it, one of KINDS."""
    for kind, pattern in KINDS.items():
        if found := re.fullmatch(f"(.+?)(?:{pattern})", key):
            layer = found[1]
            while prefix := next(filter(layer.startswith, PREFIXES), None):
                layer = layer.removeprefix(prefix)
            prefix = next(filter(layer.startswith, FLAT_PREFIXES), "")
            return layer.removeprefix(prefix), kind
    return None


def _file_of(named: Path) -> Path:
    """The file that is meant by a name."""
    if not named.exists():
        raise UserError(f"{named}: no such file.")
    files = sorted(named.iterdir()) if named.is_dir() else [named]
    readable = [path for path in files if path.suffix == ".safetensors"]
    usual = [path for path in readable if path.name in (PEFT_FILE, LORA_FILE)]
    if len(usual or readable) == 1:
        return (usual or readable)[0]
    pickles = [path for path in files if path.suffix in PICKLES]
    if pickles and not readable:
        raise UserError(f"{pickles[0]}: a pickle may run anything as it is read, so none is. Save it as .safetensors.")
    raise UserError(f"{named}: holds {len(readable)} .safetensors files. Name the one that is meant.")


def _config_of(path: Path) -> PeftConfig | None:
    """What the file's header says of the LoRA, or else the file beside it. Raises UserError for another kind."""
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    beside = path.with_name(PEFT_CONFIG)
    if said is not None:
        values = parse_json(said.encode(), str(path))
        if not isinstance(values, dict):
            raise UserError(
                f"{path}: its header's {LORA_ADAPTER_METADATA_KEY} is a {type(values).__name__}; it must be a JSON "
                "object. Copy the file again."
            )
        values = {key.removeprefix("transformer."): value for key, value in values.items()}
    elif path.name in (PEFT_FILE, LORA_FILE) and beside.is_file():
        path, values = beside, read_json(beside)
    else:
        return None
    config = check_config(PeftConfig, values, str(path))
    if config.peft_type != "LORA":
        raise UserError(f"{path}: peft_type is {config.peft_type}; only LORA can be used.")
    if config.init_lora_weights not in FRESH_STARTS:
        raise UserError(
            f"{path}: init_lora_weights is {config.init_lora_weights}, which changes the base as well. Convert it to a "
            "plain LoRA with PEFT, or use another."
        )
    return config

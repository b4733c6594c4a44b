"""LoRA on the transformer: attach for training, save so that every loader applies the same update, load.

r rank; a trained update is scale * lora_B @ lora_A with scale = alpha / sqrt(r) (rsLoRA) or alpha / r.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import UserError
from common.safetensors_header import sort_metadata
from models.adapters.lora_layer import adopt
from models.protocols import FlowNetwork

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The one file of a LoRA folder, under the name that diffusers and upstream look for."""
MAGNITUDE = ".lora_magnitude_vector"
TRAINED = "trained"
"""Name of the adapter that `attach_lora` adds."""


@dataclass(frozen=True)
class LoraReport:
    """What `attach_lora` did."""

    modules: tuple[str, ...]  # names of the layers that carry an adapter
    parameters: int  # numbers to train


def attach_lora(
    transformer: FlowNetwork,
    *,
    rank: int,
    alpha: int,
    target_modules: Sequence[str],
    use_rslora: bool = True,
    dropout: float = 0.0,
    use_dora: bool = False,
    blocks: tuple[int, int] | None = None,
    seed: int = 0,
) -> LoraReport:
    """Add a fresh float32 adapter (lora_A from `seed`, lora_B zero) and freeze all else; leaves all in eval mode.

    `target_modules` are ends of module names; `blocks` (first, last) keeps adapters off the other transformer blocks.
    Raises UserError if no module matches.
    """
    transformer.requires_grad_(False)
    matched = _matched(transformer, target_modules, blocks)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=matched if blocks or transformer.adapted_prefix else list(target_modules),  # short, as upstream
        use_rslora=use_rslora,
        lora_dropout=dropout,
        use_dora=use_dora,
    )
    with torch.random.fork_rng(devices=[]):
        transformer.add_adapter(config, adapter_name=TRAINED)
    adopt(transformer)
    transformer.eval()
    parameters = trained_parameters(transformer)
    _initialise(parameters, seed)
    layers = tuple(name for name, module in transformer.named_modules() if isinstance(module, LoraLayer))
    return LoraReport(layers, sum(parameter.numel() for parameter in parameters.values()))


def trained_parameters(transformer: FlowNetwork) -> dict[str, nn.Parameter]:
    """Parameters of the attached adapter by name, in a fixed order."""
    return {name: parameter for name, parameter in transformer.named_parameters() if parameter.requires_grad}


def set_lora_dropout(transformer: FlowNetwork, *, active: bool) -> None:
    """Switch the adapters' dropout while the network around them stays in eval mode."""
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(active)


def lora_scale(*, rank: int, alpha: float, use_rslora: bool) -> float:
    """Factor on lora_B @ lora_A in training."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


def save_lora(transformer: FlowNetwork, folder: Path) -> None:
    """Write the attached adapter as folder/pytorch_lora_weights.safetensors, float32, scale 1.

    The trained scale is multiplied into lora_B and the metadata says alpha = r without rsLoRA, because some loaders
    apply alpha and others ignore it (docs/upstream.md, section 11): so they all apply the same update.
    """
    config, scale = transformer.peft_config[TRAINED], _trained_scale(transformer)
    weights = {
        name: (tensor.detach().float() * (scale if ".lora_B." in name else 1.0)).cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(transformer, adapter_name=TRAINED).items()
    }
    metadata = config.to_dict() | {"lora_alpha": config.r, "use_rslora": False}
    written = json.dumps(metadata, indent=2, sort_keys=True, default=sorted)
    save_file(weights, folder / LORA_FILE, metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: written})
    sort_metadata(folder / LORA_FILE)


def load_trained_lora(transformer: FlowNetwork, folder: Path) -> None:
    """Give the attached adapter the weights that `save_lora` wrote of one like it.

    Raises UserError if the file is missing or broken, or holds other layers or another rank.
    """
    path, scale = folder / LORA_FILE, _trained_scale(transformer)
    own, shapes = get_peft_model_state_dict(transformer, adapter_name=TRAINED), shapes_in(path)
    for name in sorted(own.keys() | shapes.keys()):
        wanted = list(own[name].shape) if name in own else None
        if wanted != shapes.get(name):
            raise UserError(f"{path}: {name} is {shapes.get(name)}, not {wanted}. Copy the whole folder again.")
    weights = load_file(path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name] / (scale if ".lora_B." in name else 1.0))


def _trained_scale(transformer: FlowNetwork) -> float:
    config = transformer.peft_config[TRAINED]
    return lora_scale(rank=config.r, alpha=config.lora_alpha, use_rslora=config.use_rslora)


def load_lora(transformer: FlowNetwork, folder: Path, *, name: str, weight: float) -> None:
    """Add the adapter of `folder` under `name`, active and scaled by `weight`.

    Raises UserError if the file is missing or broken, or holds a tensor that does not fit this transformer.
    """
    check_fit(transformer, folder / LORA_FILE, shapes_in(folder / LORA_FILE))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        transformer.load_lora_adapter(folder, prefix=None, weight_name=LORA_FILE, adapter_name=name)
    adopt(transformer)
    transformer.set_adapters(name, weight)
    transformer.eval().requires_grad_(False)


def check_whole(
    transformer: FlowNetwork,
    folder: Path,
    *,
    target_modules: Sequence[str],
    blocks: tuple[int, int] | None,
) -> None:
    """Raises UserError if the LoRA of `folder` lacks a layer that `attach_lora` adapts for the same targets."""
    path = folder / LORA_FILE
    given = {key.rpartition(".lora_")[0] for key in shapes_in(path)}
    missing = [name for name in _matched(transformer, target_modules, blocks) if name not in given]
    if missing:
        raise UserError(f"{path}: no weights for {missing[0]}, though its card names it. Copy the whole folder.")


def bare_weights(folder: Path, transformer: FlowNetwork) -> dict[str, Tensor]:
    """The weights of a LoRA folder as ComfyUI takes them; `transformer` is the base, without the adapter.

    DoRA's magnitudes m become `dora_scale` = m * |W| / |W + B @ A| (lengths of rows), because ComfyUI divides by the
    length of the base's rows W where PEFT divides by that of the updated ones.
    """
    weights = load_file(folder / LORA_FILE)
    layers = dict(transformer.named_modules())
    bare = {name: tensor for name, tensor in weights.items() if not name.endswith(MAGNITUDE)}
    for name in weights.keys() - bare.keys():
        module = name.removesuffix(MAGNITUDE)
        base = layers[module].get_parameter("weight").detach().float()
        updated = base + weights[f"{module}.lora_B.weight"] @ weights[f"{module}.lora_A.weight"]
        bare[f"{module}.dora_scale"] = weights[name].unsqueeze(1) * _row_lengths(base) / _row_lengths(updated)
    return bare


def apply_plainly(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Add `bare_weights` to the network's own by ComfyUI's formula: W + B @ A, times dora_scale / |W| if DoRA."""
    layers = dict(network.named_modules())
    for name in weights:
        module, found, _ = name.partition(".lora_B.")
        if not found:
            continue
        matrix = layers[module].get_parameter("weight")
        lengths = _row_lengths(matrix)
        matrix += weights[name] @ weights[f"{module}.lora_A.weight"]
        if (scale := weights.get(f"{module}.dora_scale")) is not None:
            matrix *= scale / lengths


def _row_lengths(matrix: Tensor) -> Tensor:
    """Euclidean length of each row. [n, m] -> [n, 1]."""
    return matrix.norm(dim=1, keepdim=True)


def merge_lora(transformer: FlowNetwork) -> None:
    """Put the loaded adapter's update into the weights themselves, and take the adapter away."""
    transformer.fuse_lora()
    transformer.unload_lora()


def _matched(transformer: FlowNetwork, target_modules: Sequence[str], blocks: tuple[int, int] | None) -> list[str]:
    """Names of the linear layers that are to carry an adapter. Every asked-for name must match something."""
    count = len(transformer.transformer_blocks)
    first, last = blocks or (0, count - 1)
    if last >= count:
        raise UserError(f"lora.blocks [{first}, {last}] goes past the transformer's last block, {count - 1}.")
    other = tuple(f"{transformer.blocks_name}.{index}." for index in range(count) if not first <= index <= last)
    linear = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, (nn.Linear, LoraLayer)) and name.startswith(transformer.adapted_prefix)
    ]
    matched = []
    for target in target_modules:
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found:
            raise UserError(f"lora.target_modules: the transformer has no linear layer {target}. Leave it out.")
        matched += [name for name in found if not name.startswith(other)]
    return matched


def _initialise(parameters: Mapping[str, nn.Parameter], seed: int) -> None:
    """The usual LoRA start, drawn on the CPU so that every device begins alike."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(drawn)


def check_fit(transformer: FlowNetwork, path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises UserError unless tensors of these `shapes`, read from `path`, are a LoRA for this transformer."""
    layers = dict(transformer.named_modules())
    if not shapes:
        raise UserError(f"{path}: no weights inside. Use another adapter.")
    for key, shape in shapes.items():
        module, _, kind = key.rpartition(".lora_")
        layer = layers.get(module)
        if isinstance(layer, LoraLayer):  # another adapter sits there already
            layer = layer.get_base_layer()
        fits = isinstance(layer, nn.Linear) and _fits(layer, kind, shape)
        if not fits:
            raise UserError(
                f"{path}: {key} {list(shape)} fits no layer of this transformer. Use the base it was made for."
            )
        a, b = (shapes.get(f"{module}.lora_{half}.weight", []) for half in "AB")
        if a[:1] != b[1:]:
            raise UserError(f"{path}: lora_A {a} and lora_B {b} of {module} make no pair. Copy the file again.")


def _fits(layer: nn.Linear, kind: str, shape: Sequence[int]) -> bool:
    if kind == "A.weight":
        return list(shape[1:]) == [layer.in_features]
    return list(shape[:1]) == [layer.out_features]  # lora_B and DoRA's magnitudes


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file. Raises UserError for one that is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. An adapter folder holds {LORA_FILE}.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}).") from None

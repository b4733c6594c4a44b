"""The weights of a network's file, every one accounted for: a missing, unknown or bent one is a UserError.

Networks come in eval mode, without gradients, on the CPU; reading one takes the memory of its weights once.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.bases import CONFIG_FILE
from common.config import AnyConfig, check_config, read_json
from common.errors import UserError
from models.loading.hub import again

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def read_part_config(folder: Path, part: str) -> dict[str, Any]:
    """The config.json of a checkpoint's part. Raises UserError where there is none, or no JSON object."""
    path = folder / part / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file. A checkpoint folder holds {part}/{CONFIG_FILE}.")
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds a {type(config).__name__}; it must be a JSON object.")
    return config


def without_notes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without what diffusers notes there about itself (_class_name, ...)."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def network_config(kind: type[AnyConfig], config: Mapping[str, Any], name: str) -> AnyConfig:
    """A config.json, checked; `name` is for errors."""
    return check_config(kind, without_notes(config), name)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's weights."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def read_weights(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: torch.dtype = torch.float32,
    unread: tuple[str, ...] = (),
    name_of: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Exactly the weights named in `shapes`, cast to `dtype` one by one, from one file or those that an index names.

    The file may also hold weights whose names begin with one of `unread`, and no others; `name_of` makes ours of its
    names. Raises UserError for a file that is missing or damaged, or holds other weights.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(opened_weights(file)) for file in _present(weight_files(path))]
        held = [(file, name) for file in files for name in file.keys() if not name.startswith(unread)]  # noqa: SIM118
        places = {name_of(name): (file, name) for file, name in held}
        if len(places) < len(held):
            raise UserError(f"{path}: holds {len(held) - len(places)} weights twice. {again(path)}")
        stored = {ours: tuple(file.get_slice(name).get_shape()) for ours, (file, name) in places.items()}
        _account(path, shapes, stored)
        return {ours: places[ours][0].get_tensor(places[ours][1]).to(dtype, copy=True) for ours in shapes}


def weight_files(path: Path) -> list[Path]:
    """`path`, or the files that it names where it is an index of several. Raises UserError for a bad index."""
    index = read_json(path) if path.suffix == ".json" else {"weight_map": {"": path.name}}
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in named.values()
    ):
        raise UserError(f"{path}: is no index of weights beside it. {again(path)}")
    return [path.with_name(file) for file in sorted(set(named.values()))]


def _present(files: list[Path]) -> list[Path]:
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file. It holds the weights of {file.parent.name}.")
    return files


@contextmanager
def opened_weights(path: Path) -> Generator[Any]:
    """A safetensors file. Raises UserError for what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}). {again(path)}") from None
    except OSError:  # safetensors says "no such file" whatever the reason
        raise UserError(f"{path}: cannot be opened. Is this user allowed to read it?") from None


def _account(path: Path, wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted]
    bent = [name for name in wanted if name in stored and stored[name] != wanted[name]]
    if not missing and not unknown and not bent:
        return
    counts = ((missing, "missing"), (unknown, "unknown"), (bent, "of another shape"))
    summary = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
    first = [*missing, *unknown, *bent][0]
    shapes = f" is {list(stored[first])}, expected {list(wanted[first])}" if first in bent else ""
    raise UserError(f"{path}: weights do not fit {CONFIG_FILE}: {summary}; the first is {first}{shapes}.")


def filled(network: AnyModule, weights: Mapping[str, Tensor]) -> AnyModule:
    """A network that was made on the meta device, with its weights."""
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()

"""Checkpoint folders in ACE-Step's published layout, opened part by part, with every weight accounted for.

A weight that is missing, unknown or of another shape than config.json says is a UserError that names it and its file.
Networks come in eval mode, without gradients, on the CPU; reading one takes the memory of its weights once.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.canonical import sha256_of_file
from common.config import AnyConfig, check_config, read_json
from common.errors import UserError
from common.progress import say
from models.loading.hub import again, fetch, revision_of

if TYPE_CHECKING:  # each opener imports its network itself: train need not import what only prep and infer use
    from models.acestep1.codec.codec import Codec
    from models.acestep1.codec.vocoder import Vocoder
    from models.acestep1.text.encoder import TextEncoder
    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

Part = Literal["ace_step_transformer", "music_dcae_f8c8", "music_vocoder", "umt5-base", "demucs"]

TINY = Path(__file__).resolve().parents[1] / "tiny"
"""The bundle that ships with Backline."""
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILES: Mapping[Part, str] = {
    "ace_step_transformer": "diffusion_pytorch_model.safetensors",
    "music_dcae_f8c8": "diffusion_pytorch_model.safetensors",
    "music_vocoder": "diffusion_pytorch_model.safetensors",
    "umt5-base": "model.safetensors",
}
HALVES = ("encoder.", "decoder.")
"""Of the codec; a file may hold one alone."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def resolve_checkpoint(name: str | Path, parts: Sequence[Part]) -> Path:
    """The folder that holds `parts`: the word "tiny", a folder, or a Hugging Face id (or id@commit), of which `parts`
    are fetched.

    Only the text "tiny" means the bundle; Path("tiny") and "./tiny" are folders. Raises UserError where a part is
    missing, or cannot be fetched.
    """
    if name == "tiny":
        _say_what_tiny_is()
        return TINY
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch(str(name), parts)
    for part in parts:
        if not (folder / part).is_dir():
            raise UserError(f"{name}: there is no {part}/ in it. Give a folder in the layout of ACE-Step-v1-3.5B.")
        if revision_of(folder) is not None:
            _check_fetched(str(name), folder, part)
    return folder


def _check_fetched(name: str, folder: Path, part: Part) -> None:
    """Raises UserError where the cache holds a part without its weights: an older download ended amid it."""
    lacking = [path for path in _files_of(folder / part, part) if not path.is_file()]
    if lacking:
        raise UserError(
            f"{name}: {part}/{lacking[0].name} was not downloaded. Run this again with a connection to Hugging Face "
            "(HF_HUB_OFFLINE unset), or give a folder that holds it."
        )


def open_transformer(folder: Path, *, dtype: torch.dtype = torch.float32) -> "ACEStepTransformer2DModel":
    """The transformer, its weights cast to `dtype` one by one as they are read. Raises UserError for bad files."""
    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

    part: Part = "ace_step_transformer"
    config = _read_config(folder, part)
    try:
        with torch.device("meta"):
            network = ACEStepTransformer2DModel(**without_notes(config))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / part / CONFIG_FILE}: {error}") from None
    return _fill(network, read_weights(_weights_path(folder, part), shapes_of(network), dtype=dtype))


def open_codec(folder: Path, *, encoder: bool, decoder: bool) -> "Codec":
    """The halves asked for; the file need not hold the other, which is never allocated.

    Raises UserError for bad files.
    """
    from models.acestep1.codec.codec import Codec, CodecConfig

    part: Part = "music_dcae_f8c8"
    config = network_config(CodecConfig, _read_config(folder, part), str(folder / part / CONFIG_FILE))
    with torch.device("meta"):
        codec = Codec(config, encoder=encoder, decoder=decoder)
    unread = tuple(prefix for prefix, wanted in zip(HALVES, (encoder, decoder), strict=True) if not wanted)
    return _fill(codec, read_weights(_weights_path(folder, part), shapes_of(codec), unread=unread))


def open_vocoder(folder: Path) -> "Vocoder":
    """The vocoder, its weight norm folded into plain weights. Raises UserError for bad files."""
    from models.acestep1.codec.vocoder import GriffinLimConfig, Vocoder, VocoderConfig, fold, stored_shapes

    part: Part = "music_vocoder"
    settings = _read_config(folder, part)
    kind = GriffinLimConfig if "head" in settings else VocoderConfig
    config = network_config(kind, settings, str(folder / part / CONFIG_FILE))
    with torch.device("meta"):
        vocoder = Vocoder(config)
    return _fill(vocoder, fold(read_weights(_weights_path(folder, part), stored_shapes(vocoder))))


def open_text_encoder(folder: Path) -> "TextEncoder":
    """The text encoder with its tokenizer, from the folder's files alone. Raises UserError for bad ones."""
    from models.acestep1.text.encoder import TextEncoder, build_network, open_tokenizer, stored_shapes, tied

    part: Part = "umt5-base"
    network = build_network(_read_config(folder, part), folder / part / CONFIG_FILE)
    weights = read_weights(_weights_path(folder, part), stored_shapes(network))
    network = _fill(network, tied(weights))
    network.tie_weights()
    return TextEncoder(network, open_tokenizer(folder / part / TOKENIZER_FILE)).eval()


@cache
def _say_what_tiny_is() -> None:
    say('checkpoint "tiny": the small bundle inside Backline, for trying and testing, not for music.')


def _read_config(folder: Path, part: Part) -> dict[str, Any]:
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


def _weights_path(folder: Path, part: Part) -> Path:
    return folder / part / WEIGHTS_FILES[part]


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's weights."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def read_weights(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtype: torch.dtype = torch.float32,
    unread: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Exactly the weights named in `shapes`, cast to `dtype` one by one.

    The file may also hold weights whose names begin with one of `unread`, and no others. Raises UserError for a file
    that is missing or damaged, or holds other weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. It holds the weights of {path.parent.name}.")
    with _opened(path) as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _account(path, shapes, {name: shape for name, shape in stored.items() if not name.startswith(unread)})
        return {name: file.get_tensor(name).to(dtype, copy=True) for name in shapes}


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """A safetensors file; what is wrong with it is a UserError."""
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


def _fill(network: AnyModule, weights: Mapping[str, Tensor]) -> AnyModule:
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()


def part_hash(folder: Path, part: Part) -> str:
    """sha256 (hex) over what `part` computes with: its config, weights and tokenizer, by name and content.

    Raises UserError for a file that is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for path in _files_of(folder / part, part):
        if not path.is_file():
            raise UserError(f"{path}: no such file. A checkpoint folder holds {part}/{path.name}.")
        stat = path.stat()
        digest.update(f"{path.name}\0{_file_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def is_whole(folder: Path, part: Part) -> bool:
    """Whether a folder holds every file of `part`, and of the codec both halves, so that its hash can be compared.

    Raises UserError for a damaged codec.
    """
    if not all(path.is_file() for path in _files_of(folder / part, part)):
        return False
    if part != "music_dcae_f8c8":
        return True
    with _opened(_weights_path(folder, part)) as file:
        return all(any(name.startswith(half) for name in file.keys()) for half in HALVES)  # noqa: SIM118


def _files_of(room: Path, part: Part) -> list[Path]:
    if part == "demucs":  # a bag: its yaml names its files
        return sorted([*room.glob("*.yaml"), *room.glob("*.safetensors")])
    names = [CONFIG_FILE, WEIGHTS_FILES[part]] + ([TOKENIZER_FILE] if part == "umt5-base" else [])
    return [room / name for name in names]


@cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file; size and time of change tell a changed file from one already read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None

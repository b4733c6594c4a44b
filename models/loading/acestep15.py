"""ACE-Step 1.5's networks, from the original layout or from diffusers'.

The original layout is `acestep-v15-VARIANT/` (config.json, weights, silence_latent.pt) beside the codec's and the text
encoder's folder; such a VARIANT folder may be named itself. In diffusers' each network has its folder.
"""

import pickle
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.bases import ACE_STEP_15, CONFIG_FILE, TOKENIZER_FILE
from common.config import read_json
from common.errors import UserError
from common.texts.lyrics import LyricsContent
from models.acestep15.names import diffusers_name, original_name
from models.acestep15.prompts import check_language, lyrics_of
from models.acestep15.sizes import NetworkSettings, network_settings, variant_of
from models.device import shapes_alone
from models.loading.hub import cached, revision_of
from models.loading.weights import (
    filled,
    network_config,
    read_part_config,
    read_weights,
    shapes_of,
    weight_files,
    without_notes,
)

if TYPE_CHECKING:  # each opener imports its network itself: train need not import what only prep and infer use
    from models.acestep15.codec import OobleckCodec, OobleckLatentDecoder
    from models.acestep15.network import AceStep15Network
    from models.acestep15.text import LyricRowReader, QwenTextEncoder
    from models.protocols import FlowNetwork, PromptEncoder

PARTS = ACE_STEP_15.parts
VARIANTS = "acestep-v15-*"
"""Folders of the original layout's variants."""
SILENCE_FILE = "silence_latent.pt"
DIFFUSERS_TRANSFORMER, DIFFUSERS_CONDITIONS = "transformer", "condition_encoder"
CODEC = "vae"
"""The codec's folder, in both layouts."""
HALVES = ("encoder.", "decoder.")
"""Of the codec; a file may hold one alone."""
TELLING = (CONFIG_FILE, SILENCE_FILE, f"{VARIANTS}/{CONFIG_FILE}", f"{DIFFUSERS_CONDITIONS}/{CONFIG_FILE}")
"""Small files by which a folder is known, whatever part is fetched."""
MODEL_TYPE = "acestep"
"""What the config.json of a variant calls itself in the original layout."""
SILENCE = f"{DIFFUSERS_CONDITIONS}.silence_latent"
ORIGINAL_STEM, TEXT_STEM, DIFFUSERS_STEM = "model", "model", "diffusion_pytorch_model"
"""Names of the files of weights, without what follows them."""
DIFFUSERS_TEXT, DIFFUSERS_TOKENIZER = "text_encoder", "tokenizer"
LANGUAGE_MODEL = ("model.", "lm_head.")
"""Prefix of the text encoder's weights where it is stored with a head for language, and the head."""
UNREAD = ("tokenizer.", "detokenizer.")
"""Networks of the cover task, in the original layout's file."""


def holds_part(folder: Path) -> bool:
    """Whether a folder holds any of its parts, in either layout."""
    told = (SILENCE_FILE, DIFFUSERS_CONDITIONS, *ACE_STEP_15.files)
    if any((folder / name).exists() for name in told) or any(folder.glob(f"{VARIANTS}/{CONFIG_FILE}")):
        return True
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else None
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def hub_patterns(part: str) -> tuple[str, ...]:
    """Paths of a part's files in a repository: of several parts, of one variant, or in diffusers' layout."""
    if part == PARTS.codec:
        return *TELLING, f"{CODEC}/*"
    if part == PARTS.text_encoder:
        return *TELLING, f"{part}/*", f"{DIFFUSERS_TEXT}/*", f"{DIFFUSERS_TOKENIZER}/*"
    of_variant = (CONFIG_FILE, f"{ORIGINAL_STEM}*.safetensors*", SILENCE_FILE)
    return f"{VARIANTS}/*", *of_variant, f"{DIFFUSERS_TRANSFORMER}/*", f"{DIFFUSERS_CONDITIONS}/*"


def part_files(folder: Path, part: str) -> list[Path]:
    """Every file that a part computes with, the config first, in the layout of the folder.

    Raises UserError where a folder holds several variants or none.
    """
    if part == PARTS.codec:
        return _network_files(codec_weights(folder))
    if part == PARTS.text_encoder:
        return [*_network_files(_weights_file(_text_folder(folder), TEXT_STEM)), _tokenizer_path(folder)]
    if (folder / DIFFUSERS_CONDITIONS).is_dir():
        parts = (DIFFUSERS_TRANSFORMER, DIFFUSERS_CONDITIONS)
        return [file for each in parts for file in _network_files(_weights_file(folder / each, DIFFUSERS_STEM))]
    room = _variant_folder(folder)
    return [*_network_files(_weights_file(room, ORIGINAL_STEM)), room / SILENCE_FILE]


def codec_weights(folder: Path) -> Path:
    """The file that holds the codec's weights, or a half of them."""
    return _weights_file(_beside(folder, CODEC), DIFFUSERS_STEM)


def variant(folder: Path) -> str:
    """A name of ACE_STEP_15.samplings. Raises UserError for bad files, and unless a folder holds one variant."""
    if (folder / DIFFUSERS_CONDITIONS).is_dir():
        return variant_of(read_part_config(folder, DIFFUSERS_TRANSFORMER), _called(folder)).kind
    room = _variant_folder(folder)
    return variant_of(read_part_config(room.parent, room.name), _called(room)).kind


def open_transformer(folder: Path, *, dtype: torch.dtype = torch.float32) -> "AceStep15Network":
    """The transformer and its condition encoder, weights cast to `dtype` one by one as they are read.

    Raises UserError for bad files, and where a folder holds several variants or none.
    """
    if (folder / DIFFUSERS_CONDITIONS).is_dir():
        return _open_diffusers(folder, dtype)
    return _open_original(_variant_folder(folder), dtype)


def open_codec(folder: Path, *, encoder: bool, decoder: bool) -> "OobleckCodec":
    """The halves asked for; the file need not hold the other, which is never allocated. Weight norm is folded.

    Raises UserError for bad files.
    """
    from models.acestep15.codec import OobleckCodec, OobleckConfig

    room = _beside(folder, CODEC)
    config = network_config(OobleckConfig, read_part_config(room.parent, CODEC), str(room / CONFIG_FILE))
    with shapes_alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, at diffusers: weight_norm has a successor
        codec = OobleckCodec(config, encoder=encoder, decoder=decoder)
    unread = tuple(prefix for prefix, wanted in zip(HALVES, (encoder, decoder), strict=True) if not wanted)
    return filled(codec, read_weights(codec_weights(folder), shapes_of(codec), unread=unread)).fold()


def open_decoder(folder: Path, device: torch.device) -> "OobleckLatentDecoder":
    """The codec's decoder on a device; its encoder is not read. Raises UserError for bad files."""
    from models.acestep15.codec import OobleckLatentDecoder

    return OobleckLatentDecoder(open_codec(folder, encoder=False, decoder=True).to(device))


def open_text_encoder(folder: Path) -> "QwenTextEncoder":
    """The text encoder with its tokenizer, from the folder's files alone. Raises UserError for bad files."""
    from models.acestep15.text import QwenTextEncoder, build_text_network, with_rotary_tables
    from models.pretrained import open_tokenizer

    room = _text_folder(folder)
    network = build_text_network(read_part_config(room.parent, room.name), room / CONFIG_FILE)
    prefix, head = LANGUAGE_MODEL
    weights = read_weights(
        _weights_file(room, TEXT_STEM),
        shapes_of(network),
        unread=(head,),
        name_of=lambda name: name.removeprefix(prefix),
    )
    tokenizer = open_tokenizer(_tokenizer_path(folder))
    return QwenTextEncoder(with_rotary_tables(filled(network, weights)), tokenizer).eval()


def check_lyrics_language(language: str) -> None:
    """Raises UserError for what is no code of a language."""
    check_language(language)


def lyrics_reduced(lyrics: str, content: LyricsContent) -> str:
    """What is left of a song's lyrics."""
    return lyrics_of(lyrics)[content]


def open_lyric_reader(folder: Path, encoder: "PromptEncoder | None") -> "LyricRowReader":
    """What makes rows of lyrics, which are the text encoder's own."""
    from models.acestep15.text import LyricRowReader, QwenTextEncoder

    assert isinstance(encoder, QwenTextEncoder)
    return LyricRowReader(encoder)


def save_transformer(network: "FlowNetwork", base: Path, folder: Path) -> None:
    """Write the transformer and its condition encoder in the layout of the base, with its configs, in one file each.

    Raises UserError where the base holds several variants or none.
    """
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if (base / DIFFUSERS_CONDITIONS).is_dir():
        for part in (DIFFUSERS_TRANSFORMER, DIFFUSERS_CONDITIONS):
            (folder / part).mkdir()
            shutil.copyfile(base / part / CONFIG_FILE, folder / part / CONFIG_FILE)
            own = {name.removeprefix(f"{part}."): held for name, held in weights.items() if name.startswith(f"{part}.")}
            save_file(own, folder / part / f"{DIFFUSERS_STEM}.safetensors", metadata={"format": "pt"})
        return
    room = folder / VARIANTS.replace("*", variant(base))
    room.mkdir()
    for name in (CONFIG_FILE, SILENCE_FILE):
        shutil.copyfile(_variant_folder(base) / name, room / name)
    own = {original_name(name): held for name, held in weights.items() if name != SILENCE}
    save_file(own, room / f"{ORIGINAL_STEM}.safetensors", metadata={"format": "pt"})


def build_network(
    settings: NetworkSettings, config: dict[str, Any], path: Path, *, called: str = ""
) -> "AceStep15Network":
    """The network without memory for its weights, of a folder or repository that is `called` so.

    Raises UserError, which names `path`, for settings that make none.
    """
    from models.acestep15.network import AceStep15Network

    try:
        with shapes_alone():
            return AceStep15Network(settings, variant_of(config, called))
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: {error}") from None


def _open_diffusers(folder: Path, dtype: torch.dtype) -> "AceStep15Network":
    parts = (DIFFUSERS_TRANSFORMER, DIFFUSERS_CONDITIONS)
    transformer, conditions = (without_notes(read_part_config(folder, part)) for part in parts)
    path = folder / DIFFUSERS_TRANSFORMER / CONFIG_FILE
    network = build_network(NetworkSettings(transformer, conditions), transformer, path, called=_called(folder))
    weights: dict[str, Tensor] = {}
    for part in parts:
        shapes = shapes_of(network.get_submodule(part))
        stored = read_weights(_weights_file(folder / part, DIFFUSERS_STEM), shapes, dtype=dtype)
        weights |= {f"{part}.{name}": weight for name, weight in stored.items()}
    return filled(network, weights)


def _open_original(folder: Path, dtype: torch.dtype) -> "AceStep15Network":
    config = without_notes(read_part_config(folder.parent, folder.name))
    path = folder / CONFIG_FILE
    network = build_network(network_settings(config, str(path)), config, path, called=_called(folder))
    shapes = shapes_of(network)
    silence = _read_silence(folder / SILENCE_FILE, shapes.pop(SILENCE)).to(dtype)
    path = _weights_file(folder, ORIGINAL_STEM)
    weights = read_weights(path, shapes, dtype=dtype, unread=UNREAD, name_of=diffusers_name)
    return filled(network, weights | {SILENCE: silence})


def _called(folder: Path) -> str:
    """Name of a variant's folder, or of the repository that it is the cache's folder of."""
    return folder.parents[1].name if revision_of(folder) else folder.resolve().name


def _variant_folder(folder: Path) -> Path:
    if (folder / SILENCE_FILE).is_file():
        return folder.resolve()
    found = sorted(path.parent for path in folder.glob(f"{VARIANTS}/{CONFIG_FILE}"))
    if len(found) == 1:
        return found[0]
    held = f"{len(found)} variants ({', '.join(path.name for path in found)})" if found else f"no {VARIANTS}/"
    raise UserError(f"{folder}: holds {held}. Give the folder of one variant of {ACE_STEP_15.name}.")


def _beside(folder: Path, part: str) -> Path:
    """The folder of a part that all variants share.

    It may lie beside the folder of a variant that is named itself; a variant's own repository has none, and the first
    repository's is taken.
    """
    if (folder / part).is_dir() or not (folder / SILENCE_FILE).is_file():
        return folder / part
    first = cached(ACE_STEP_15.published_id, f"{part}/*") if revision_of(folder) else None
    return (first or folder.resolve().parent) / part


def _text_folder(folder: Path) -> Path:
    in_diffusers = folder / DIFFUSERS_TEXT
    return in_diffusers if in_diffusers.is_dir() else _beside(folder, PARTS.text_encoder)


def _tokenizer_path(folder: Path) -> Path:
    room = _text_folder(folder)
    return (folder / DIFFUSERS_TOKENIZER if room.name == DIFFUSERS_TEXT else room) / TOKENIZER_FILE


def _network_files(weights: Path) -> list[Path]:
    """Config, weights and, where those are several files, their index."""
    files = weight_files(weights)
    return [weights.with_name(CONFIG_FILE), *([weights] if files != [weights] else []), *files]


def _weights_file(folder: Path, stem: str) -> Path:
    """The one file of weights, or the index of several."""
    index = folder / f"{stem}.safetensors.index.json"
    return index if index.is_file() else folder / f"{stem}.safetensors"


def _read_silence(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The latent of silence [1, T, C], which the file holds as [1, C, T]."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. It holds the latent of silence.")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged ({reason}). Copy or download it again.") from None
    wanted = (shape[0], shape[2], shape[1])
    if not isinstance(held, Tensor) or tuple(held.shape) != wanted:
        found = list(held.shape) if isinstance(held, Tensor) else type(held).__name__
        raise UserError(f"{path}: holds {found}, expected a tensor {list(wanted)}.")
    return held.transpose(1, 2).contiguous()

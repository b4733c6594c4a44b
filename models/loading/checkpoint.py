"""Checkpoint folders: of which base model they are, their parts opened one by one, and hashes over those."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.bases import ACE_STEP_1, ACE_STEP_15, BASES, BUNDLED, BaseSpec
from common.canonical import sha256_of_file
from common.errors import UserError
from common.progress import say
from common.texts.lyrics import LyricsContent
from models.loading import acestep1, acestep15
from models.loading.hub import HUB_ID, cached, fetch, revision_of
from models.loading.weights import opened_weights

if TYPE_CHECKING:  # train need not import what only prep and infer use
    from models.protocols import FlowNetwork, LatentCodec, LatentDecoder, LyricReader, PromptEncoder

TINY = Path(__file__).resolve().parents[1] / "tiny"
"""The bundle of ACE-Step v1 that ships with Backline."""
TINY15 = TINY.with_name("tiny15")
"""The bundle of ACE-Step 1.5."""
BUNDLES: Mapping[str, Path] = dict(
    zip(BUNDLED, (TINY, TINY15 / "acestep-v15-base", TINY15 / "acestep-v15-turbo"), strict=True)
)
"""The folder that each word names."""
SEPARATOR = "demucs"
"""Folder of a checkpoint's own separator; no base model's part."""
OPENERS = {ACE_STEP_1.name: acestep1, ACE_STEP_15.name: acestep15}
"""Module that opens the networks of each base model."""


def spec_of(name: str | Path) -> BaseSpec:
    """The base model of a checkpoint: a word of BUNDLES, a folder, or a Hugging Face id (or id@commit).

    A folder is told by the parts that it holds, and where it holds none it is taken for one of ACE-Step v1. So is a
    repository that others published: by its files in the cache, else small ones are fetched.
    Raises UserError where a repository cannot be told, or not be had.
    """
    folder = bundle_of(name) or Path(name).expanduser()
    matched = None if folder.is_dir() else HUB_ID.fullmatch(str(name))
    if matched is None:
        return _held_in(folder) or ACE_STEP_1
    published = [spec for spec in BASES.values() if matched[1] in (spec.published_id, *spec.variant_ids)]
    return published[0] if published else _spec_of_repository(str(name))


def _held_in(folder: Path) -> BaseSpec | None:
    """The base model of which a folder holds a part."""
    return next((BASES[base] for base, opener in OPENERS.items() if opener.holds_part(folder)), None)


def _spec_of_repository(name: str) -> BaseSpec:
    telling = [pattern for opener in OPENERS.values() for pattern in opener.TELLING]
    in_cache = cached(name, *telling)
    found = None if in_cache is None else _held_in(in_cache)
    found = found or _held_in(fetch(name, telling))
    if found is None:
        layouts = " or ".join(spec.published_id for spec in BASES.values())
        raise UserError(
            f"{name}: holds no network of {' or '.join(BASES)}, as far as its files are named. Give a repository or a "
            f"folder in the layout of {layouts}."
        )
    return found


def resolve_checkpoint(name: str | Path, parts: Sequence[str]) -> Path:
    """The folder that holds `parts`: of a word of BUNDLES, a folder, or of a Hugging Face id (or id@commit), of which
    `parts` are fetched.

    Only the text "tiny" means the bundle; Path("tiny") and "./tiny" are folders. Raises UserError where a part is
    missing, or cannot be fetched.
    """
    bundle = bundle_of(name)
    if bundle is not None:
        _say_what_it_is(str(name))
        return bundle
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _fetched(str(name), parts)
    for part in parts:
        room = part_files(folder, part)[0].parent if part != SEPARATOR else separator_folder(folder)
        if not room.is_dir():
            layout = spec_of(folder).published_id.partition("/")[2]
            raise UserError(f"{name}: there is no {room.name}/ in it. Give a folder in the layout of {layout}.")
        if revision_of(folder) is not None:
            _check_fetched(str(name), folder, part)
    return folder


def _fetched(name: str, parts: Sequence[str]) -> Path:
    """The cache's folder of a repository.

    Where variants are published without the parts that they share, what one lacks comes from the first repository.
    """
    spec = spec_of(name)
    opener = OPENERS[spec.name]

    def patterns(parts: Sequence[str]) -> list[str]:
        return [pattern for part in parts for pattern in opener.hub_patterns(part)]

    folder = fetch(name, patterns(parts))
    shared = [part for part in parts if part in spec.parts.encoders and not part_files(folder, part)[0].is_file()]
    if shared and spec.variant_ids and name.partition("@")[0] != spec.published_id:
        fetch(spec.published_id, patterns(shared))
    return folder


def _check_fetched(name: str, folder: Path, part: str) -> None:
    """Raises UserError where the cache holds a part without its weights: an older download ended amid it."""
    lacking = [path for path in part_files(folder, part) if not path.is_file()]
    if lacking:
        raise UserError(
            f"{name}: {part}/{lacking[0].name} was not downloaded. Run this again with a connection to Hugging Face "
            "(HF_HUB_OFFLINE unset), or give a folder that holds it."
        )


def open_transformer(folder: Path, *, dtype: torch.dtype = torch.float32) -> "FlowNetwork":
    """The transformer, its weights cast to `dtype` one by one as they are read.

    Raises UserError for weights that are missing, unknown or of another shape than config.json says.
    """
    return OPENERS[spec_of(folder).name].open_transformer(folder, dtype=dtype)


def variant_of(folder: Path) -> str:
    """Which variant of its base model the transformer of a folder is, such as base or turbo. Raises UserError for bad
    files."""
    return OPENERS[spec_of(folder).name].variant(folder)


def save_transformer(network: "FlowNetwork", base: Path, folder: Path) -> None:
    """Write a transformer that was opened from `base` into a checkpoint folder of the same layout, float32."""
    OPENERS[network.spec.name].save_transformer(network, base, folder)


def open_codec(folder: Path, *, encoder: bool, decoder: bool) -> "LatentCodec":
    """The halves asked for; the file need not hold the other, which is never allocated.

    Raises UserError for bad files.
    """
    return OPENERS[spec_of(folder).name].open_codec(folder, encoder=encoder, decoder=decoder)


def open_decoder(folder: Path, device: torch.device) -> "LatentDecoder":
    """The way from latents to sound, on a device; no encoder is read. Raises UserError for bad files."""
    return OPENERS[spec_of(folder).name].open_decoder(folder, device)


def open_text_encoder(folder: Path) -> "PromptEncoder":
    """The text encoder with its tokenizer, from the folder's files alone. Raises UserError for bad ones."""
    return OPENERS[spec_of(folder).name].open_text_encoder(folder)


def check_lyrics_language(spec: BaseSpec, language: str) -> None:
    """Raises UserError for a language that a base model cannot read lyrics in."""
    OPENERS[spec.name].check_lyrics_language(language)


def lyrics_reduced(spec: BaseSpec, lyrics: str, content: LyricsContent) -> str:
    """What is left of a song's lyrics, as text: that the song is instrumental, structure tags alone, or all."""
    return OPENERS[spec.name].lyrics_reduced(lyrics, content)


def open_lyric_reader(folder: Path, encoder: "PromptEncoder | None") -> "LyricReader":
    """What makes tokens of lyrics; it asks the text encoder of the folder where the base model has lyric rows, and it
    alone. Raises UserError for bad files.
    """
    return OPENERS[spec_of(folder).name].open_lyric_reader(folder, encoder)


def bundle_of(name: str | Path) -> Path | None:
    """The folder of a bundle that the text `name` means; None for any other text and for every Path."""
    return BUNDLES.get(name) if isinstance(name, str) else None


@cache
def _say_what_it_is(bundle: str) -> None:
    say(f'checkpoint "{bundle}": a small bundle inside Backline, for trying and testing, not for music.')


def separator_folder(folder: Path) -> Path:
    """Where a checkpoint's own separator lies, if it has one. That of the bundles is one."""
    return (TINY if folder in BUNDLES.values() else folder) / SEPARATOR


def part_hash(folder: Path, part: str) -> str:
    """sha256 (hex) over what `part` computes with: its config, weights and tokenizer, by name and content.

    Raises UserError for a file that is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for path in part_files(folder, part):
        if not path.is_file():
            raise UserError(f"{path}: no such file. A checkpoint folder holds {part}/{path.name}.")
        stat = path.stat()
        digest.update(f"{path.name}\0{_file_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def is_whole(folder: Path, part: str) -> bool:
    """Whether a folder holds every file of `part`, and of the codec both halves, so that its hash can be compared.

    Raises UserError for a damaged codec.
    """
    if not all(path.is_file() for path in part_files(folder, part)):
        return False
    if part != spec_of(folder).parts.codec:
        return True
    opener = OPENERS[spec_of(folder).name]
    with opened_weights(opener.codec_weights(folder)) as file:
        return all(any(name.startswith(half) for name in file.keys()) for half in opener.HALVES)  # noqa: SIM118


def part_files(folder: Path, part: str) -> list[Path]:
    """Every file that a part of a checkpoint computes with, the config first, whether they are there or not.

    Raises UserError where the folder leaves open which they are.
    """
    if part == SEPARATOR:  # a bag: its yaml names its files
        room = separator_folder(folder)
        return sorted([*room.glob("*.yaml"), *room.glob("*.safetensors")])
    return OPENERS[spec_of(folder).name].part_files(folder, part)


@cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    """sha256 of a file; size and time of change tell a changed file from one already read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None

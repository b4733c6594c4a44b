"""ACE-Step v1's networks, each from its part of a checkpoint folder in the published layout."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from common.bases import ACE_STEP_1, CONFIG_FILE, TOKENIZER_FILE
from common.errors import UserError
from common.texts.lyrics import LyricsContent
from models.device import shapes_alone
from models.loading.weights import filled, network_config, read_part_config, read_weights, shapes_of, without_notes

if TYPE_CHECKING:  # each opener imports its network itself: train need not import what only prep and infer use
    from models.acestep1.codec.codec import Codec
    from models.acestep1.codec.decoder import MelDecoder
    from models.acestep1.codec.vocoder import Vocoder
    from models.acestep1.text.encoder import TextEncoder
    from models.acestep1.text.lyric_tokens import LyricIdReader
    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
    from models.protocols import FlowNetwork, PromptEncoder

PARTS = ACE_STEP_1.parts
HALVES = ("encoder.", "decoder.")
"""Of the codec; a file may hold one alone."""

TELLING = tuple(f"{part}/{CONFIG_FILE}" for part in ACE_STEP_1.files)
"""Small files by which a repository is known."""


def holds_part(folder: Path) -> bool:
    """Whether a folder holds any of its parts."""
    return any((folder / part).is_dir() for part in ACE_STEP_1.files)


def hub_patterns(part: str) -> tuple[str, ...]:
    """Paths of a part's files in a repository."""
    return (f"{part}/*",)


def part_files(folder: Path, part: str) -> list[Path]:
    """Every file that a part computes with, the config first."""
    return [folder / part / name for name in ACE_STEP_1.files[part]]


def codec_weights(folder: Path) -> Path:
    """The file that holds the codec's weights, or a half of them."""
    return _weights_path(folder, PARTS.codec)


def variant(folder: Path) -> str:
    """The one variant."""
    return "base"


def open_transformer(folder: Path, *, dtype: torch.dtype = torch.float32) -> "ACEStepTransformer2DModel":
    """The transformer, its weights cast to `dtype` one by one as they are read. Raises UserError for bad files."""
    from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

    part = PARTS.transformer
    config = read_part_config(folder, part)
    try:
        with shapes_alone():
            network = ACEStepTransformer2DModel(**without_notes(config))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / part / CONFIG_FILE}: {error}") from None
    return filled(network, read_weights(_weights_path(folder, part), shapes_of(network), dtype=dtype))


def open_codec(folder: Path, *, encoder: bool, decoder: bool) -> "Codec":
    """The halves asked for; the file need not hold the other, which is never allocated."""
    from models.acestep1.codec.codec import Codec, CodecConfig

    part = PARTS.codec
    config = network_config(CodecConfig, read_part_config(folder, part), str(folder / part / CONFIG_FILE))
    with shapes_alone():
        codec = Codec(config, encoder=encoder, decoder=decoder)
    unread = tuple(prefix for prefix, wanted in zip(HALVES, (encoder, decoder), strict=True) if not wanted)
    return filled(codec, read_weights(_weights_path(folder, part), shapes_of(codec), unread=unread))


def open_vocoder(folder: Path) -> "Vocoder":
    """The vocoder, its weight norm folded into plain weights."""
    from models.acestep1.codec.vocoder import GriffinLimConfig, Vocoder, VocoderConfig, fold, stored_shapes

    part = PARTS.vocoder
    settings = read_part_config(folder, part)
    kind = GriffinLimConfig if "head" in settings else VocoderConfig
    config = network_config(kind, settings, str(folder / part / CONFIG_FILE))
    with shapes_alone():
        vocoder = Vocoder(config)
    return filled(vocoder, fold(read_weights(_weights_path(folder, part), stored_shapes(vocoder))))


def open_decoder(folder: Path, device: torch.device) -> "MelDecoder":
    """Codec's decoder and vocoder on a device; the codec's encoder is not read. Raises UserError for bad files."""
    from models.acestep1.codec.decoder import MelDecoder

    return MelDecoder(open_codec(folder, encoder=False, decoder=True).to(device), open_vocoder(folder).to(device))


def open_text_encoder(folder: Path) -> "TextEncoder":
    """The text encoder with its tokenizer, from the folder's files alone."""
    from models.acestep1.text.encoder import TextEncoder, build_network, stored_shapes, tied
    from models.pretrained import open_tokenizer

    part = PARTS.text_encoder
    network = build_network(read_part_config(folder, part), folder / part / CONFIG_FILE)
    weights = read_weights(_weights_path(folder, part), stored_shapes(network))
    network = filled(network, tied(weights))
    network.tie_weights()
    return TextEncoder(network, open_tokenizer(folder / part / TOKENIZER_FILE)).eval()


def check_lyrics_language(language: str) -> None:
    """Raises UserError for a language that has no token."""
    from models.acestep1.text.lyric_tokens import check_language

    check_language(language)


def lyrics_reduced(lyrics: str, content: LyricsContent) -> str:
    """What is left of a song's lyrics."""
    from models.acestep1.text.lyric_tokens import reduce_lyrics

    return reduce_lyrics(lyrics, content)


def open_lyric_reader(folder: Path, encoder: "PromptEncoder | None") -> "LyricIdReader":
    """What makes token ids of lyrics, with the folder's vocabulary if it has one. Raises UserError for another's."""
    from models.acestep1.text.lyric_tokens import LyricIdReader, open_lyric_vocabulary

    return LyricIdReader(open_lyric_vocabulary(folder))


def save_transformer(network: "FlowNetwork", base: Path, folder: Path) -> None:
    """Write a transformer as the part of a checkpoint folder, its config that of the base."""
    part = PARTS.transformer
    (folder / part).mkdir()
    shutil.copyfile(base / part / CONFIG_FILE, folder / part / CONFIG_FILE)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, _weights_path(folder, part), metadata={"format": "pt"})


def _weights_path(folder: Path, part: str) -> Path:
    return folder / part / ACE_STEP_1.weights_file(part)

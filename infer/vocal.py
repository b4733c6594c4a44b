"""The vocal that a band is made for: from an audio file, levelled and encoded as in training, or from shards.

C latent channels (8), H latent rows (16), T latent frames, N audio samples at 44.1 kHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio import at_codec_rate, level_vocal, read_audio, vocal_activity
from common.canonical import sha256_of_file, unicode_text
from common.errors import UserError
from common.latents import SAMPLE_RATE_HZ
from infer.mixdown import output_samples
from infer.record import VocalRecord
from models.checkpoint import open_codec
from shards.schema import Sample

LONGEST_SECONDS = 240.0
"""What the network takes in one pass."""


@dataclass(frozen=True)
class Vocal:
    """A vocal as the network hears it, and what its band must fit."""

    key: str  # begins the names of the results
    latents: Tensor  # [C, H, T] float32, scaled as the codec makes them
    activity: Tensor  # [T] float32 in [0, 1]
    wave: np.ndarray | None  # [2, N] at the level of training; None where only latents are known
    samples: int  # N
    output_samples: int  # exact length of the results, at 48 kHz
    record: VocalRecord


def vocal_from_file(path: Path, *, base: Path, lufs: float, device: torch.device) -> Vocal:
    """Read, level and encode a vocal; the codec's encoder is open only for this call. `lufs` is that of training.

    Raises UserError for a file that cannot be read, is silent, shorter than a loudness block or longer than a pass.
    """
    audio = read_audio(path)
    _check_length(path.name, audio.seconds, "Cut the vocal.")
    try:
        wave = level_vocal(at_codec_rate(audio), SAMPLE_RATE_HZ, lufs)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    return Vocal(
        key=unicode_text(path.stem.removesuffix("_vocal")),
        latents=_encode(wave, base, device),
        activity=torch.from_numpy(vocal_activity(wave)),
        wave=wave,
        samples=wave.shape[-1],
        output_samples=output_samples(audio.samples.shape[-1], audio.rate_hz),
        record=VocalRecord(
            file=unicode_text(path.as_posix()), sha256=sha256_of_file(path), seconds=audio.seconds, lufs=lufs
        ),
    )


def vocal_from_shards(folder: Path, key: str, segments: Sequence[Sample]) -> Vocal:
    """The segments of one song, joined: all but the last fill their frames, so that their latents lie end to end.

    Raises UserError where they are longer than a pass.
    """
    samples = sum(segment.meta.samples for segment in segments)
    seconds = samples / SAMPLE_RATE_HZ
    _check_length(key, seconds, f"Name one segment, such as --key {segments[0].meta.key}.")
    return Vocal(
        key=key,
        latents=torch.from_numpy(np.concatenate([segment.vocal for segment in segments], axis=-1)).float(),
        activity=torch.from_numpy(np.concatenate([segment.activity for segment in segments])).float(),
        wave=None,
        samples=samples,
        output_samples=output_samples(samples, SAMPLE_RATE_HZ),
        record=VocalRecord(
            shards=unicode_text(folder.as_posix()), segments=tuple(s.meta.key for s in segments), seconds=seconds
        ),
    )


@torch.no_grad()
def _encode(wave: np.ndarray, base: Path, device: torch.device) -> Tensor:
    codec = open_codec(base, encoder=True, decoder=False).to(device)
    return codec.encode(torch.from_numpy(wave).to(device)).cpu()


def _check_length(name: str, seconds: float, way_out: str) -> None:
    if seconds > LONGEST_SECONDS:
        limit = f"the network takes at once ({LONGEST_SECONDS:g} s)"
        raise UserError(f"{name}: {seconds:.1f} s is longer than {limit}. {way_out}")

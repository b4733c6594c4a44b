"""The vocal that a band is made for: from an audio file, levelled and encoded as in training, or from shards.

C latent channels, H latent rows, T latent frames, N audio samples at the codec's rate.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.disk_wave import DiskWave
from common.audio.wave import vocal_activity, vocal_gain
from common.canonical import unicode_text
from common.errors import UserError
from common.latents import LatentLayout
from common.music.lead_sheet import LeadSheet
from common.texts.naming import song_of_vocal
from infer.audio.decoded import DecodedAudio, decode_file, encode
from infer.audio.mixdown import output_samples
from infer.request.record import HarmoniserRecord, VocalRecord
from models.protocols import LatentCodec
from shards.schema import Sample


@dataclass(frozen=True)
class VocalInput:
    """A vocal as the network receives it, and what its band must fit."""

    key: str  # begins the names of the results
    latents: Tensor  # [C, H, T] float32, scaled as the codec makes them
    activity: Tensor  # [T] float32 in [0, 1]
    wave: DiskWave | None  # [2, N] at the level of training; None where only latents are known
    samples: int  # N
    output_samples: int  # exact length of the results, at 48 kHz
    record: VocalRecord
    lead_sheet: LeadSheet | None = None  # what the band follows beside it
    harmoniser: HarmoniserRecord | None = None  # what inferred that


@contextmanager
def vocal_from_file(
    path: Path, latents: LatentLayout, *, encoder: Callable[[], LatentCodec], sha256: Callable[[Path], str], lufs: float
) -> Generator[VocalInput]:
    """Read, level and encode a vocal, whose wave can be read within the block; `lufs` is the loudness of training.

    `encoder` opens the codec, once the file is read; `sha256` hashes the file.
    Raises UserError for a file that cannot be read, is silent or shorter than a loudness block.
    """
    with DiskWave(latents.sample_rate_hz) as wave:
        with decode_file(path, latents.sample_rate_hz) as decoded:
            _level(path, decoded, lufs, wave)
        yield VocalInput(
            key=unicode_text(song_of_vocal(path)),
            latents=encode(wave, encoder()),
            activity=torch.from_numpy(_activity(wave, latents)),
            wave=wave,
            samples=wave.samples,
            output_samples=output_samples(decoded.samples, decoded.rate_hz),
            record=VocalRecord(
                file=unicode_text(path.as_posix()), sha256=sha256(path), seconds=decoded.seconds, lufs=lufs
            ),
        )


def _activity(wave: DiskWave, latents: LatentLayout) -> np.ndarray:
    return np.concatenate([vocal_activity(block, latents) for block in wave.blocks(latents.frame_samples)])


def _level(path: Path, decoded: DecodedAudio, lufs: float, onto: DiskWave) -> None:
    """The gain is that with which prep levels a vocal that comes alone."""
    wave = decoded.wave
    try:
        gain = vocal_gain(wave.blocks, wave.rate_hz, lufs, samples=wave.samples)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    onto.extend(block * gain.factor for block in wave.blocks())


def vocal_from_shards(folder: Path, key: str, segments: Sequence[Sample], rate_hz: int) -> VocalInput:
    """The segments of one song, joined: all but the last fill their frames, so that their latents lie end to end."""
    samples = sum(segment.meta.samples for segment in segments)
    latents = np.concatenate([segment.vocal for segment in segments], axis=-1)
    return VocalInput(
        key=key,
        latents=torch.from_numpy(latents).float(),
        activity=torch.from_numpy(np.concatenate([segment.activity for segment in segments])).float(),
        wave=None,
        samples=samples,
        output_samples=output_samples(samples, rate_hz),
        record=VocalRecord(
            shards=unicode_text(folder.as_posix()),
            segments=tuple(s.meta.key for s in segments),
            sha256=hashlib.sha256(latents.tobytes()).hexdigest(),
            seconds=samples / rate_hz,
        ),
    )

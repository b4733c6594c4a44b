"""A reference accompaniment, blended into what was generated: as latents, evenly or by frequency.

B songs, C latent channels (8), H latent rows (16, low frequencies first), T latent frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from common.canonical import unicode_text
from common.config import Config
from common.errors import UserError
from common.latents import LatentLayout
from infer.audio.decoded import decode_file, encode
from models.protocols import LatentCodec

LOW_ROWS, HIGH_ROWS = slice(0, 4), slice(12, None)
"""Rows under which the codec's mel bands lie up to about 900 Hz, and from about 6 kHz on."""


class BlendSettings(Config):
    """How much of a reference goes into the result."""

    mix_ratio: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of what was generated: 1 is all of it, 0 the reference alone."""
    preserve_low: bool = False
    """Take the low frequencies (bass, kick) from the reference alone."""
    preserve_high: bool = False
    """Take the high frequencies from the reference alone."""


class ReferenceRecord(Config):
    """Which reference."""

    file: str
    sha256: str


@dataclass(frozen=True)
class EncodedReference:
    """A reference as long as the vocal."""

    latents: Tensor  # [C, H, T]
    record: ReferenceRecord


def read_reference(
    path: Path,
    latents: LatentLayout,
    *,
    samples: int,
    encoder: Callable[[], LatentCodec],
    sha256: Callable[[Path], str],
) -> EncodedReference:
    """Read a reference at its own level and encode as much of it as `samples` at the codec's rate, the vocal's, take.

    `encoder` opens the codec, once the file is read; `sha256` hashes the file.
    Raises UserError for a file that cannot be read, or ends a latent frame or more before the vocal does.
    """
    frames, rate_hz = latents.frames_of(samples), latents.sample_rate_hz
    with decode_file(path, rate_hz) as decoded:
        if latents.frames_of(decoded.wave.samples) < frames:
            needed = samples / rate_hz
            raise UserError(
                f"{path.name}: {decoded.seconds:.2f} s is shorter than the vocal ({needed:.2f} s). Give a longer one."
            )
        encoded = encode(decoded.wave, encoder(), frames=frames)
    return EncodedReference(encoded, ReferenceRecord(file=unicode_text(path.as_posix()), sha256=sha256(path)))


def blend_latents(generated: Tensor, reference: Tensor, settings: BlendSettings) -> Tensor:
    """generated, reference [..., C, H, T]: their mix by mix_ratio, and the reference alone in preserved rows."""
    share = settings.mix_ratio * frequency_mask(settings, generated.shape[-3:]).to(generated)
    return share * generated + (1 - share) * reference


def frequency_mask(settings: BlendSettings, shape: Sequence[int]) -> Tensor:
    """1 where what was generated takes part, 0 where the reference is preserved, [C, H, 1] for latents [C, H, T]."""
    mask = torch.ones(*shape[:2], 1)
    if settings.preserve_low:
        mask[:, LOW_ROWS] = 0
    if settings.preserve_high:
        mask[:, HIGH_ROWS] = 0
    return mask

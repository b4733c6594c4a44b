"""An audio file of any length as the codec takes it, and as latents, with no more than a piece of it in memory.

C latent channels, H latent rows, T latent frames, N audio samples at the codec's rate.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.decode import AudioStream, audio_stream
from common.audio.disk_wave import DiskWave
from common.audio.wave import stereo_blocks_at
from models.protocols import LatentCodec


@dataclass(frozen=True)
class DecodedAudio:
    """A decoded file."""

    wave: DiskWave  # [2, N]
    samples: int  # in the file
    rate_hz: int  # of the file

    @property
    def seconds(self) -> float:
        return self.samples / self.rate_hz


@contextmanager
def decode_file(path: Path, rate_hz: int) -> Generator[DecodedAudio]:
    """Decode a file; its wave at `rate_hz` can be read within the block. Raises UserError where that fails."""
    with DiskWave(rate_hz) as wave:
        with audio_stream(path) as stream:
            counted = _Counted(stream)
            wave.extend(stereo_blocks_at(replace(stream, blocks=iter(counted)), rate_hz))
        yield DecodedAudio(wave, counted.samples, stream.rate_hz)


class _Counted:
    """The blocks of a stream; when they are read, `samples` is how many there were."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream, self.samples = stream, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._stream.blocks:
            self.samples += block.shape[1]
            yield block


@torch.no_grad()
def encode(wave: DiskWave, codec: LatentCodec, *, frames: int | None = None) -> Tensor:
    """Scaled latents [C, H, T], on the CPU, of a wave, or of its first `frames`."""
    device = next(codec.parameters()).device

    def read(start: int, end: int) -> Tensor:
        return torch.from_numpy(wave.read(start, end)).to(device)

    return codec.encode_from(read, frames or codec.layout.frames_of(wave.samples)).cpu()

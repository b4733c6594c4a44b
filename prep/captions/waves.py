"""Waves of a song's files, mono, for what is measured of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.audio.decode import audio_stream
from common.audio.wave import stereo_blocks_at
from prep.sources.scan import SongFiles


@dataclass(frozen=True)
class PartWaves:
    """A song's parts, float32 [N] each."""

    vocal: np.ndarray | None
    """None where there is no stem of it."""
    band: np.ndarray
    """Its stems, or what the vocal leaves of the mix; without stems the whole mix."""
    mix: np.ndarray | None
    """None where there is no file of it."""

    @property
    def whole(self) -> np.ndarray:
        """The mix, or what the parts add up to."""
        if self.mix is not None:
            return self.mix
        return self.band if self.vocal is None else summed([self.band, self.vocal])


def waves_of(song: SongFiles, rate_hz: int, *, most_seconds: float = math.inf) -> PartWaves:
    """The waves of a song, or their starts. Raises UserError for a file that cannot be read."""
    waves = {
        part: summed(read_mono(path, rate_hz, most_seconds=most_seconds) for at, path in song.sources if at == part)
        for part in song.files
    }
    vocal, mix = waves.get("vocal"), waves.get("mix")
    band = waves["inst"] if "inst" in waves else waves["mix"] if vocal is None else difference(waves["mix"], vocal)
    return PartWaves(vocal, band, mix)


def read_mono(path: Path, rate_hz: int, *, most_seconds: float = math.inf) -> np.ndarray:
    """A file, or its start, float32 [N]. Raises UserError where it cannot be read."""
    blocks, samples = list[np.ndarray](), 0
    with audio_stream(path) as stream:
        for block in stereo_blocks_at(stream, rate_hz):
            blocks.append(block.mean(axis=0))
            samples += block.shape[1]
            if samples >= most_seconds * rate_hz:
                break
    return np.concatenate(blocks)[: int(min(samples, most_seconds * rate_hz))]


def summed(waves: Iterable[np.ndarray]) -> np.ndarray:
    """Waves added up, to the end of the shortest."""
    waves = list(waves)
    shortest = min(wave.size for wave in waves)
    return np.stack([wave[:shortest] for wave in waves]).sum(axis=0)


def difference(mix: np.ndarray, vocal: np.ndarray) -> np.ndarray:
    """A mix without its vocal, to the end of the shorter."""
    shortest = min(mix.size, vocal.size)
    return mix[:shortest] - vocal[:shortest]

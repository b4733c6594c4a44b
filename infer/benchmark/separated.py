"""How much of the voice a separator finds in a band (docs/evaluation.md#measures-with-weights).

N samples of a stereo wave [2, N] at 44.1 kHz.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from common.audio.disk_wave import DiskWave
from common.audio.wave import frame_levels
from common.errors import UserError
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.benchmark.excerpts import FRAME_SAMPLES, SUNG_RANGE_DB
from infer.benchmark.measured import Heard, Instrument, Measured
from infer.evaluate.measures.clip import Clip
from models.separator import find_separator, open_separator

OVERLAP = 0.25
LEAST_DB = -60.0
SEPARATED_DB = "leakage.separated_db"


class SeparatedLeakage(Instrument):
    """A Demucs model, and what it takes for a voice in a band."""

    name = "separator"

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises UserError for a folder that holds no Demucs model of vocals in stereo at 44.1 kHz."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. It holds the yaml and the safetensors of a Demucs model.")
        files = find_separator(str(folder), folder)
        assert files is not None, "a folder is some model"
        self._separator = open_separator(files, device, overlap=OVERLAP)
        if self._separator.rate_hz != MEASURED_RATE_HZ:
            raise UserError(
                f"{folder}: separates at {self._separator.rate_hz} Hz; a model at {MEASURED_RATE_HZ} Hz is needed."
            )
        self.identity = files.content_hash()
        self.about = {"name": files.name, "sha256": self.identity, "demucs": version("demucs")}

    def measure(self, heard: Heard) -> Measured:
        found = [separated_db(heard.vocal, band, self.voice_in(band)) for band in heard.bands]
        known = [value for value in found if value is not None]
        return Measured({SEPARATED_DB: float(np.mean(known)) if known else None})

    def voice_in(self, band: Clip) -> Clip:
        """What is taken for a voice in a band."""
        with DiskWave(MEASURED_RATE_HZ) as wave:
            wave.append(band.wave)
            return Clip(np.concatenate(list(self._separator.vocal(wave)), axis=1))


def separated_db(vocal: Clip, band: Clip, voice: Clip) -> float | None:
    """Energy of the `voice` that was taken out of a band, over the band's, in the 40 ms frames in which the vocal is
    sung: 0 is a voice alone, LEAST_DB the least that is told. None where the band is silent there.
    """
    levels = frame_levels(vocal.wave, frame_samples=FRAME_SAMPLES)
    sung = np.flatnonzero(levels >= levels.max(initial=-np.inf) - SUNG_RANGE_DB)
    taken, whole = (_energy(clip.wave, sung) for clip in (voice, band))
    return None if whole == 0 else max(10 * float(np.log10(max(taken / whole, 1e-12))), LEAST_DB)


def _energy(wave: np.ndarray, frames: np.ndarray) -> float:
    power = 10 ** (frame_levels(wave, frame_samples=FRAME_SAMPLES) / 10)
    return float(power[frames[frames < power.size]].sum())

"""Bands by the embeddings of a CLAP checkpoint, from a local folder in the form of transformers.

Windows of 10 s begin at every second of a clip, the last ones with silence behind them, as fadtk takes them for CLAP.
N samples of a stereo wave [2, N] at 44.1 kHz, n windows, D width of an embedding.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor
from transformers.utils import logging

from common.audio.wave import resample
from common.canonical import sha256_of, sha256_of_file
from common.config import read_json
from common.errors import UserError
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.benchmark.measured import Heard, Instrument, Measured
from infer.evaluate.measures.clip import Clip
from models.pretrained import check_weights, network_options

WINDOW_SECONDS, BATCH_WINDOWS = 10, 8
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
TEXT_WEIGHTS = ("text_model.", "text_projection.", "logit_scale_")
"""Of the other half, which is not opened."""


class Clap(Instrument):
    """The sound half of a CLAP checkpoint: its embeddings are features of length one, [n, D]."""

    name = "clap"

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises UserError for a folder that holds no such checkpoint, or one that crops by chance."""
        for file in FILES:
            if not (folder / file).is_file():
                raise UserError(f"{folder}: {file} is missing. A CLAP checkpoint in the form of transformers has it.")
        options = network_options(read_json(folder / FILES[0]), folder / FILES[0])
        if options.get("model_type") != "clap":
            raise UserError(f"{folder / FILES[0]}: a {options.get('model_type')}; --clap takes a CLAP checkpoint.")
        check_weights(folder)
        if options.get("audio_config", {}).get("enable_fusion"):
            raise UserError(f"{folder}: a fusion checkpoint, which crops by chance. Take one without fusion.")
        logging.set_verbosity_error()
        self._extract = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        opened: Any = ClapAudioModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, found = opened
        unknown = [name for name in found["unexpected_keys"] if not name.startswith(TEXT_WEIGHTS)]
        if found["missing_keys"] or unknown or found["mismatched_keys"]:
            counts = ", ".join(
                f"{len(found[kind])} {kind.replace('_', ' ')}" for kind in ("missing_keys", "mismatched_keys")
            )
            raise UserError(
                f"{folder}: its weights are not those of a CLAP checkpoint ({counts}, {len(unknown)} unknown)."
            )
        self._network, self._device = network.to(device).eval(), device
        self.about = {
            "weights": {file: sha256_of_file(folder / file) for file in FILES},
            "transformers": version("transformers"),
        }
        self.identity = sha256_of([self.about, WINDOW_SECONDS])

    def measure(self, heard: Heard) -> Measured:
        return Measured(
            alone=tuple(map(self.embed, heard.bands)), mixed=tuple(self.embed(mix) for mix in heard.mixes())
        )

    @torch.no_grad()
    def embed(self, clip: Clip) -> np.ndarray:
        """Embeddings of a clip's windows, float64 [n, D]."""
        rate_hz = self._extract.sampling_rate
        mono = resample(clip.wave.mean(axis=0, keepdims=True), MEASURED_RATE_HZ, rate_hz)[0]
        padded = np.pad(mono, (0, WINDOW_SECONDS * rate_hz))
        windows = [padded[at : at + WINDOW_SECONDS * rate_hz] for at in range(0, mono.size, rate_hz)]
        batches = [windows[at : at + BATCH_WINDOWS] for at in range(0, len(windows), BATCH_WINDOWS)]
        return np.concatenate([self._embed(batch, rate_hz) for batch in batches])

    def _embed(self, windows: list[np.ndarray], rate_hz: int) -> np.ndarray:
        inputs = self._extract(windows, sampling_rate=rate_hz, truncation="rand_trunc", return_tensors="pt")
        embeddings = self._network(**inputs.to(self._device)).audio_embeds
        return functional.normalize(embeddings, dim=-1).cpu().double().numpy()

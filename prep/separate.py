"""The vocal of a full song, by Demucs. Waves are stereo [2, N] at 44.1 kHz.

Demucs' own checkpoints (.th) are pickles and are refused. A safetensors file names the class that it wants to be made:
we compare that name with Demucs' own classes before Demucs opens the file, for it would import whatever is named.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from demucs.apply import BagOfModels, apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name, load_safetensors_model
from demucs.htdemucs import HTDemucs
from safetensors import SafetensorError, safe_open
from scipy.ndimage import maximum_filter1d

from common.audio import decibels, frame_levels
from common.canonical import sha256_of, sha256_of_file
from common.config import Config, check_config
from common.errors import UserError
from common.latents import SAMPLE_RATE_HZ
from prep.align import rms
from prep.config import SeparatorConfig

DEFAULT = "htdemucs"
CLASSES = {f"{kind.__module__}.{kind.__qualname__}" for kind in (Demucs, HDemucs, HTDemucs)}
PUBLISHED_NAME = re.compile(r"([\w.-]+/)?\w[\w.-]*")
GATE_SAMPLES = 2048
GATE_SLOPE_DB = 10.0
"""The gate goes from open to shut over this."""
LOUD_PERCENTILE = 95


class Bag(Config):
    """The yaml of a Demucs model: one or several networks whose stems are averaged."""

    models: tuple[str, ...]
    """Names of the safetensors files, without suffix."""
    weights: tuple[tuple[float, ...], ...] | None = None
    """Weight of each network for each of its stems."""
    segment: float | None = None
    """Seconds that a network sees at once."""


@dataclass(frozen=True)
class SeparatorFiles:
    """A Demucs model on the disk."""

    name: str
    bag: Bag
    weights: tuple[Path, ...]

    def content_hash(self) -> str:
        """SHA-256 over the bag and the bytes of its networks."""
        return sha256_of([self.bag.model_dump(mode="json"), [sha256_of_file(path) for path in self.weights]])


@dataclass(frozen=True)
class Separated:
    """A vocal, and how much of the song was taken out of it again as bleed."""

    vocal: np.ndarray
    bleed_db: float | None
    """Level of the bleed against the mix; None where there was none, or no gate."""


class Separator:
    """An opened Demucs model."""

    def __init__(self, name: str, model: BagOfModels, config: SeparatorConfig, device: torch.device) -> None:
        self.name, self._model, self._config, self._device = name, model, config, device

    def separate(self, mix: np.ndarray) -> Separated:
        """The vocal in `mix`, gated."""
        vocal = self._vocal(mix)
        return Separated(vocal, None) if self._config.gate_db is None else gate(vocal, mix, self._config.gate_db)

    def _vocal(self, mix: np.ndarray) -> np.ndarray:
        """Demucs hears the mix with mean 0 and deviation 1, as its own command line feeds it."""
        wave = torch.from_numpy(mix)
        mean, deviation = wave.mean(0).mean(), wave.mean(0).std() + 1e-8
        stems = apply_model(
            self._model,
            ((wave - mean) / deviation)[None],
            shifts=0,
            overlap=self._config.overlap,
            device=self._device,
        )
        return (stems[0, self._model.sources.index("vocals")] * deviation + mean).numpy()


def gate(vocal: np.ndarray, mix: np.ndarray, gate_db: float) -> Separated:
    """Fade out what lies `gate_db` below the loud parts of a vocal: there nobody sings, and what is left is bleed."""
    levels = frame_levels(vocal, frame_samples=GATE_SAMPLES)
    audible = levels[np.isfinite(levels)]
    if audible.size == 0:
        return Separated(vocal, None)
    shut_at = np.percentile(audible, LOUD_PERCENTILE) - gate_db - GATE_SLOPE_DB
    opening = np.clip((levels - shut_at) / GATE_SLOPE_DB, 0.0, 1.0)
    opening = maximum_filter1d(opening, 3)  # a frame's room on either side, so that no onset is faded
    centres = (np.arange(opening.size) + 0.5) * GATE_SAMPLES
    gated = vocal * np.interp(np.arange(vocal.shape[1]), centres, opening).astype(np.float32)
    bleed, whole = rms(vocal - gated), rms(mix)
    return Separated(gated, decibels(bleed / whole) if bleed and whole else None)


def find_separator(name: str, checkpoint: Path) -> SeparatorFiles | None:
    """The model meant by separator.name: None for "none"; see SeparatorConfig. Downloads a published one once.

    Raises UserError where there is none, or where its files are not of Demucs' own classes.
    """
    if name == "none":
        return None
    if name == "auto":
        name = str(checkpoint / "demucs") if (checkpoint / "demucs").is_dir() else DEFAULT
    found = _in_folder(Path(name)) if Path(name).is_dir() else _published(name)
    for path in found.weights:
        check_class(path)
    return found


def open_separator(files: SeparatorFiles, config: SeparatorConfig, device: torch.device) -> Separator:
    """Open a model that `find_separator` found."""
    models = []
    for path in files.weights:
        check_class(path)
        try:
            models.append(load_safetensors_model(path))
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{path}: its weights do not fit its own arguments ({reason}).") from None
    weights = None if files.bag.weights is None else [list(row) for row in files.bag.weights]
    model = BagOfModels(models, weights, files.bag.segment)
    if "vocals" not in model.sources or model.samplerate != SAMPLE_RATE_HZ or model.audio_channels != 2:
        found = f"{', '.join(model.sources)} at {model.samplerate} Hz, {model.audio_channels} channels"
        raise UserError(
            f"{files.name}: separates {found}; a stereo model with vocals at {SAMPLE_RATE_HZ} Hz is needed."
        )
    return Separator(files.name, model.eval(), config, device)


def check_class(path: Path) -> None:
    """Raise UserError unless a safetensors file asks for one of Demucs' own classes; only its header is read."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}).") from None
    if metadata.get("klass") not in CLASSES:
        raise UserError(f"{path}: asks for {metadata.get('klass')}, which is none of {', '.join(sorted(CLASSES))}.")
    if "structure" in metadata:
        raise UserError(f"{path}: a quantised Demucs model, which needs diffq. Choose {DEFAULT} or another plain one.")


def _in_folder(folder: Path) -> SeparatorFiles:
    yamls, weights = sorted(folder.glob("*.yaml")), sorted(folder.glob("*.safetensors"))
    if len(yamls) != 1 or not weights:
        pickles = " Its .th files are pickles, which run code when opened." if any(folder.glob("*.th")) else ""
        found = f"{len(yamls)} yaml and {len(weights)} safetensors files in it"
        raise UserError(f"{folder}: {found}; a Demucs model is one yaml and its safetensors.{pickles}")
    bag = _read_bag(yamls[0])
    return SeparatorFiles(yamls[0].stem, bag, tuple(folder / f"{model}.safetensors" for model in bag.models))


def _published(name: str) -> SeparatorFiles:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    if not PUBLISHED_NAME.fullmatch(name):
        raise UserError(f"{name}: no folder, and no name of a Demucs model such as {DEFAULT}.")
    namespace, _, model = name.rpartition("/")
    repository = f"{namespace or DEFAULT_NAMESPACE}/{hf_repo_name(model)}"
    try:
        bag = _read_bag(Path(hf_hub_download(repository, f"{model}.yaml")))
        weights = [Path(hf_hub_download(repository, f"{signature}.safetensors")) for signature in bag.models]
    except (OSError, HTTPError, HFValidationError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"{name}: no folder, and not to be had from Hugging Face ({reason}). Check the name and the connection, "
            "give a folder, or use --separator none for stems only."
        ) from None
    return SeparatorFiles(name, bag, tuple(weights))


def _read_bag(path: Path) -> Bag:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from None
    bag = check_config(Bag, values if isinstance(values, dict) else {}, str(path))
    if not bag.models or not all(re.fullmatch(r"\w[\w.-]*", model) for model in bag.models):
        raise UserError(f"{path}: models must name files beside it, got {list(bag.models)}.")
    return bag

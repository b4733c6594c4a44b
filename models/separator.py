"""The vocal of a full song, by Demucs, window after window. Waves are stereo [2, N].

Demucs' own checkpoints (.th) are pickles and are refused. A safetensors file names the class that it wants to be made:
we compare that name with Demucs' own classes before Demucs opens the file, for it would import whatever is named.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from demucs.apply import BagOfModels, TensorChunk, apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.hf import DEFAULT_NAMESPACE, hf_repo_name, load_safetensors_model
from demucs.htdemucs import HTDemucs
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from common.audio.disk_wave import DiskWave
from common.canonical import sha256_of, sha256_of_file
from common.config import Config, check_config
from common.errors import UserError
from models.device import whole_float32
from models.loading.checkpoint import separator_folder

Network = Demucs | HDemucs | HTDemucs
DEFAULT = "htdemucs"
CLASSES = {f"{kind.__module__}.{kind.__qualname__}" for kind in (Demucs, HDemucs, HTDemucs)}
PUBLISHED_NAME = re.compile(r"([\w.-]+/)?\w[\w.-]*")


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
class MixScale:
    """Mean and deviation of a song: Demucs is fed it with mean 0 and deviation 1, as by its own command line."""

    mean: float
    deviation: float


class Separator:
    """An opened Demucs model."""

    def __init__(self, name: str, model: BagOfModels, device: torch.device, *, overlap: float) -> None:
        self.name, self.rate_hz, self._device = name, int(model.samplerate), device
        self._networks = [cast(Network, network.to(device).eval()) for network in model.models]
        vocals = model.sources.index("vocals")
        self._vocals, self._shares = vocals, [row[vocals] for row in model.weights]
        seconds = min(float(network.segment) for network in self._networks)  # a bag's networks see the same windows
        self._window = int(model.samplerate * seconds)
        self._stride = int((1 - overlap) * self._window)

    def vocal(self, mix: DiskWave) -> Iterator[np.ndarray]:
        """The vocal of a song in blocks [2, n]: what apply_model makes of all of it, in the memory of a few windows.

        Windows overlap under triangular weights, each sample over the sum of its weights.
        """
        scale = mix_scale(mix)
        weight = _triangle(self._window)
        total, weights = torch.zeros(2, self._window), torch.zeros(self._window)
        for start in range(0, mix.samples, self._stride):
            vocal = self._window_vocal(mix, start, scale)
            length = vocal.shape[1]
            total[:, :length] += weight[:length] * vocal
            weights[:length] += weight[:length]
            done = min(self._stride, mix.samples - start)
            yield (total[:, :done] / weights[:done] * scale.deviation + scale.mean).numpy()
            total, weights = (functional.pad(kept[..., self._stride :], (0, self._stride)) for kept in (total, weights))

    @whole_float32()
    def _window_vocal(self, mix: DiskWave, start: int, scale: MixScale) -> Tensor:
        """One window's vocal as the networks give it, [2, n]; where they want more than a window, the song goes on."""
        length = min(self._window, mix.samples - start)
        beside = max(_input_samples(network, length) - length for network in self._networks)
        first = max(start - beside, 0)
        around = torch.from_numpy(mix.read(first, start + length + beside))
        around = ((around - scale.mean) / scale.deviation)[None]
        window = TensorChunk(around, start - first, length)
        stems = [apply_model(network, window, shifts=0, split=False, device=self._device) for network in self._networks]
        vocals = [share * stem[0, self._vocals].cpu() for share, stem in zip(self._shares, stems, strict=True)]
        return torch.stack(vocals).sum(0) / sum(self._shares)


def _input_samples(network: Network, samples: int) -> int:
    """How many samples a network wants as input for so many of output."""
    return samples if isinstance(network, HDemucs) else network.valid_length(samples)


def mix_scale(mix: DiskWave) -> MixScale:
    """Mean and deviation of the mean of both channels."""
    total = squares = 0.0
    for block in mix.blocks():
        mono = block.mean(axis=0, dtype=np.float64)
        total += float(mono.sum())
        squares += float(np.square(mono).sum())
    mean = total / mix.samples
    variance = (squares - mix.samples * mean**2) / max(mix.samples - 1, 1)
    return MixScale(mean, math.sqrt(max(variance, 0.0)) + 1e-8)


def _triangle(length: int) -> Tensor:
    """Weights of a window's samples, highest in its middle, [length]."""
    rising = torch.arange(1, length // 2 + 1)
    weight = torch.cat([rising, torch.arange(length - length // 2, 0, -1)])
    return weight / weight.max()


def find_separator(name: str, checkpoint: Path) -> SeparatorFiles | None:
    """The model of a name: a folder, a published name, which is downloaded once, or "auto", which is the checkpoint's
    own where it has one; None for "none".

    Raises UserError where there is none, or where its files are not of Demucs' own classes.
    """
    if name == "none":
        return None
    if name == "auto":
        own = separator_folder(checkpoint)
        name = str(own) if own.is_dir() else DEFAULT
    found = _in_folder(Path(name)) if Path(name).is_dir() else _published(name)
    for path in found.weights:
        check_class(path)
    return found


def open_separator(files: SeparatorFiles, device: torch.device, *, overlap: float) -> Separator:
    """Open a model that `find_separator` found.

    Raises UserError where its weights do not fit, or where it separates no vocals in stereo.
    """
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
    if "vocals" not in model.sources or model.audio_channels != 2:
        found = f"{', '.join(model.sources)} in {model.audio_channels} channels"
        raise UserError(f"{files.name}: separates {found}; a stereo model with vocals is needed.")
    return Separator(files.name, model, device, overlap=overlap)


def check_class(path: Path) -> None:
    """Check that a safetensors file asks for one of Demucs' own classes; only its header is read.

    Raises UserError where it does not, or is no safetensors file.
    """
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

"""What instruments say of a system's bands for an excerpt: one unit of a benchmark each.

K bands (one for each seed), n windows of an excerpt, D features of a window.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from common.canonical import sha256_of
from common.files import whole_file
from infer.benchmark.units import read_unit, write_unit
from infer.evaluate.evaluate import Values, mean_values, measure_band, mix_with
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.diversity import mean_distance_db
from infer.evaluate.measures.sanity import faults, measure_sanity
from infer.evaluate.measures.sets import set_features

DIVERSITY = "diversity.distance_db"


@dataclass(frozen=True)
class Measured:
    """Of one system's bands for one excerpt."""

    values: Values = field(default_factory=dict)
    """Measures by name, each the mean over the bands."""
    faults: tuple[str, ...] = ()
    alone: tuple[np.ndarray, ...] = ()
    """Features of each band, K times [n, D]."""
    mixed: tuple[np.ndarray, ...] = ()
    """The same of band and vocal together."""


@dataclass(frozen=True)
class Heard:
    """A vocal, its true band, and the bands that are judged."""

    vocal: Clip
    true: Clip
    bands: tuple[Clip, ...]

    def mixes(self) -> list[Clip]:
        return [mix_with(self.vocal, band, self.true) for band in self.bands]


class Instrument:
    """What measures bands."""

    name: str
    identity: str
    """Changes where its figures may: by its weights and settings."""
    about: Mapping[str, Any]
    """The weights and versions that it measures with."""

    @abstractmethod
    def measure(self, heard: Heard) -> Measured:
        """What it says of the bands."""


class Measures(Instrument):
    """The measures of `infer evaluate`, which need no weights."""

    name, identity = "measures", "2"

    def __init__(self) -> None:
        self.about = {name: version(name) for name in ("librosa", "mir-eval", "numpy")}

    def measure(self, heard: Heard) -> Measured:
        values = mean_values([measure_band(heard.vocal, band, heard.true) for band in heard.bands])
        if len(heard.bands) > 1:
            values[DIVERSITY] = mean_distance_db(heard.bands)
        found = (faults(measure_sanity(heard.vocal, band, heard.true)) for band in heard.bands)
        return Measured(
            values=values,
            faults=tuple(sorted({fault for each in found for fault in each})),
            alone=tuple(set_features([band]) for band in heard.bands),
            mixed=tuple(set_features([mix]) for mix in heard.mixes()),
        )


@dataclass(frozen=True)
class MeasuredUnit:
    """Where what an instrument said of a system's bands for an excerpt lies."""

    instrument: str
    system: str
    key: str
    order: str

    @classmethod
    def of(cls, instrument: Instrument, system: str, key: str, heard: Sequence[str], version: str) -> "MeasuredUnit":
        """`heard` are hashes of all that is listened to, `version` is Backline's."""
        order = sha256_of([instrument.name, instrument.identity, version, list(heard)])
        return cls(instrument.name, system, key, order)

    def read(self, out: Path) -> Measured | None:
        """What was measured; None where that is still to be done."""
        card = self._card(out)
        found = read_unit(card, self.order)
        features = card.with_suffix(".safetensors")
        if found is None or (found["windows"] and not features.is_file()):
            return None
        arrays: Mapping[str, np.ndarray] = load_file(features) if found["windows"] else {}
        alone, mixed = (
            tuple(arrays[f"{kind}.{take}"] for take in range(found["windows"])) for kind in ("alone", "mixed")
        )
        return Measured(found["values"], tuple(found["faults"]), alone, mixed)

    def write(self, out: Path, measured: Measured) -> None:
        """Raises UserError where the disk refuses."""
        card = self._card(out)
        if measured.alone:
            arrays = {f"alone.{take}": features for take, features in enumerate(measured.alone)}
            arrays |= {f"mixed.{take}": features for take, features in enumerate(measured.mixed)}
            with whole_file(card.with_suffix(".safetensors")) as partial:
                save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        holds = {"values": measured.values, "faults": list(measured.faults), "windows": len(measured.alone)}
        write_unit(card, self.order, holds)

    def _card(self, out: Path) -> Path:
        return out / "units" / self.instrument / self.system / f"{self.key}.json"

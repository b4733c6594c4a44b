"""Every instrument on the bands of every system, excerpt by excerpt; what was measured already is read."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from infer.band.session import Session
from infer.benchmark.excerpts import Excerpt
from infer.benchmark.measured import Heard, Instrument, Measured, MeasuredUnit
from infer.benchmark.systems import BenchmarkSystem
from infer.evaluate.evaluate import read_clip
from infer.evaluate.measures.clip import Clip

ByInstrument = Mapping[str, Mapping[str, Sequence[Measured]]]
"""By the instrument's name and the system's: of each excerpt, in their order."""


def listen(
    systems: Sequence[BenchmarkSystem],
    excerpts: Sequence[Excerpt],
    instruments: Sequence[Instrument],
    out: Path,
    session: Session,
) -> ByInstrument:
    """Measure all, a unit for each instrument, system and excerpt. Raises UserError for a band that cannot be read."""
    found: dict[str, dict[str, list[Measured]]] = {
        instrument.name: {system.name: [] for system in systems} for instrument in instruments
    }
    with session.counting(len(excerpts) * len(systems) * len(instruments), "measuring", "bands") as step:
        for excerpt in excerpts:
            place = _Place(excerpt)
            for system in systems:
                bands = _Bands(system, place)
                for instrument in instruments:
                    found[instrument.name][system.name].append(_measured(instrument, bands, out))
                    step(1, f"{system.name}, {excerpt.key}")
    return found


class _Place:
    """An excerpt, read once for all who play to it, and only if somebody is to be heard."""

    def __init__(self, excerpt: Excerpt) -> None:
        self.excerpt = excerpt

    @cached_property
    def vocal(self) -> Clip:
        return read_clip(self.excerpt.vocal)

    @cached_property
    def true(self) -> Clip:
        return read_clip(self.excerpt.true)


class _Bands:
    """A system's bands for an excerpt, read once for all instruments."""

    def __init__(self, system: BenchmarkSystem, place: _Place) -> None:
        self.system, self.place = system, place

    @cached_property
    def heard(self) -> Heard:
        return Heard(self.place.vocal, self.place.true, self.system.bands(self.place.excerpt))


def _measured(instrument: Instrument, bands: _Bands, out: Path) -> Measured:
    excerpt = bands.place.excerpt
    hashes = [excerpt.note.vocal_sha256, excerpt.note.true_sha256, *bands.system.heard(excerpt)]
    unit = MeasuredUnit.of(instrument, bands.system.name, excerpt.key, hashes, version("backline"))
    measured = unit.read(out)
    if measured is None:
        measured = instrument.measure(bands.heard)
        unit.write(out, measured)
    return measured

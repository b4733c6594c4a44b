"""Bands for voices, measured against what is true of their songs, in a table and in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import load_config
from common.table import in_columns
from infer.compare.ratings import Interval, bootstrap_mean
from infer.evaluate.evaluate import read_clip
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.sheet import measure_sheet
from infer.evaluate.report import shown_interval
from prep.made_up.truth import SongTruth, lead_sheet_of_truth

SHIPPED_BANDS, TRAINED_BANDS, TEXT2MUSIC = "shipped", "trained", "text2music"
"""Columns of the table for bands that are made, and their folders."""
ANOTHERS = "another's vocal"
SYSTEMS = (SHIPPED_BANDS, TRAINED_BANDS, ANOTHERS, TEXT2MUSIC, "true")
MEASURES = {
    "key": "key signature right",
    "tempo": "tempo right, or an octave off",
    "beats": "beat F",
    "chords": "chords right, of half seconds",
    "leak": "leakage: fine structure (clean below 0.05)",
}
FIT = ("key", "beats", "chords")
"""Whose mean says how well a band fits."""

Measured = Mapping[str, Mapping[str, np.ndarray]]
"""System -> measure -> one value for each voice."""


@dataclass(frozen=True)
class DemoResults:
    """What was measured."""

    voices: int
    measured: Measured
    table: str
    """For a terminal."""
    verdict: str
    """In one line."""


def measure_bands(voices: Sequence[Path], folders: Mapping[str, Path]) -> DemoResults:
    """Measure the bands that lie in each system's folder, KEY/KEY_accompaniment.wav, for the voices of these mixes."""
    keys = [mix.stem.removesuffix("_mix") for mix in voices]
    rows: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for number, (mix, key) in enumerate(zip(voices, keys, strict=True)):
        sheet = lead_sheet_of_truth(load_config(SongTruth, mix.with_name(f"{key}_truth.json")))
        vocal = read_clip(mix.with_name(f"{key}_vocal{mix.suffix}")).mono
        made = {system: _band(folder, key) for system, folder in folders.items()}
        made[ANOTHERS] = _band(folders[SHIPPED_BANDS], keys[(number + 1) % len(keys)])
        made["true"] = read_clip(mix.with_name(f"{key}_inst{mix.suffix}"))
        for system, band in made.items():
            rows[system].append(vars(measure_sheet(sheet, band)) | {"leak": fine_structure_excess(vocal, band.mono)})
    measured = {
        system: {name: np.array([row[name] for row in values]) for name in MEASURES} for system, values in rows.items()
    }
    return DemoResults(len(keys), measured, table(measured), verdict(measured))


def _band(folder: Path, key: str) -> Clip:
    return read_clip(folder / key / f"{key}_accompaniment.wav")


def table(measured: Measured) -> str:
    """A row for each measure, with 95 % intervals over voices."""
    rows = [
        (title, *(shown_interval(bootstrap_mean(measured[system][name].tolist()), 2) for system in SYSTEMS))
        for name, title in MEASURES.items()
    ]
    return in_columns([("", *SYSTEMS), *rows])


def verdict(measured: Measured) -> str:
    """What the figures say, also where they are bad."""
    keys, beats = measured[SHIPPED_BANDS]["key"], {name: row["beats"].mean() for name, row in measured.items()}
    follows = min(_gain(measured, SHIPPED_BANDS, null).low for null in (ANOTHERS, TEXT2MUSIC)) > 0
    more = _gain(measured, TRAINED_BANDS, SHIPPED_BANDS)
    if more.low > 0:
        trained = "better"
    else:
        trained = "worse" if more.high < 0 else "neither better nor worse, as far as so few voices tell"
    surely = "follow" if follows else "do not surely follow"
    return (
        f"In plain words: bands of the shipped adapter {surely} the voice: the key is right for {keys.sum():.0f} of "
        f"{len(keys)}, beat F is {beats[SHIPPED_BANDS]:.2f} where another's vocal has {beats[ANOTHERS]:.2f} and the "
        f"true band {beats['true']:.2f}. Trained further, they fit {trained} ({more.value:+.2f})."
    )


def _gain(measured: Measured, system: str, other: str) -> Interval:
    """How much better the bands of one system fit than another's, voice by voice."""
    fits = [np.mean([measured[name][measure] for measure in FIT], axis=0) for name in (system, other)]
    return bootstrap_mean((fits[0] - fits[1]).tolist())

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
from infer.evaluate.measures.harmony import find_chords
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.sheet import chords_of, measure_sheet
from infer.evaluate.report import shown_interval
from prep.made_up.listener import listen
from prep.made_up.truth import SongTruth, lead_sheet_of_truth
from prep.made_up.world import draw_world

SHIPPED_BANDS, TRAINED_BANDS, TEXT2MUSIC = "shipped", "trained", "text2music"
"""Columns of the table for bands that are made, and their folders."""
ANOTHERS = "another's vocal"
IDEAL = "ideal listener"
SYSTEMS = (SHIPPED_BANDS, TRAINED_BANDS, ANOTHERS, TEXT2MUSIC, IDEAL, "true")
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
        truth = load_config(SongTruth, mix.with_name(f"{key}_truth.json"))
        sheet = lead_sheet_of_truth(truth)
        vocal = read_clip(mix.with_name(f"{key}_vocal{mix.suffix}")).mono
        made = {system: _band(folder, key) for system, folder in folders.items()}
        made[ANOTHERS] = _band(folders[SHIPPED_BANDS], keys[(number + 1) % len(keys)])
        made["true"] = read_clip(mix.with_name(f"{key}_inst{mix.suffix}"))
        rows[IDEAL].append(_heard(truth, band=made["true"]))
        for system, band in made.items():
            rows[system].append(vars(measure_sheet(sheet, band)) | {"leak": fine_structure_excess(vocal, band.mono)})
    measured = {
        system: {name: np.array([row[name] for row in values]) for name in MEASURES if name in values[0]}
        for system, values in rows.items()
    }
    return DemoResults(len(keys), measured, table(measured), verdict(measured))


def _heard(truth: SongTruth, *, band: Clip) -> dict[str, float]:
    """Key and chords of one who knows the made-up world and the song's beats, and hears the vocal alone."""
    found, sheet = listen(draw_world(truth.seed, truth.seconds)), lead_sheet_of_truth(truth)
    windows = len(find_chords(band.chroma))
    assert found.key is not None
    assert sheet.key is not None
    return {
        "key": float(found.key.signature == sheet.key.signature),
        "chords": float(np.mean(chords_of(found, windows) == chords_of(sheet, windows))),
    }


def _band(folder: Path, key: str) -> Clip:
    return read_clip(folder / key / f"{key}_accompaniment.wav")


def table(measured: Measured) -> str:
    """A row for each measure, with 95 % intervals over voices."""
    rows = [(title, *(_cell(measured[system], name) for system in SYSTEMS)) for name, title in MEASURES.items()]
    return in_columns([("", *SYSTEMS), *rows])


def _cell(measured: Mapping[str, np.ndarray], name: str) -> str:
    return shown_interval(bootstrap_mean(measured[name].tolist()), 2) if name in measured else "-"


def verdict(measured: Measured) -> str:
    """What the figures say, also where they are bad."""
    keys = measured[SHIPPED_BANDS]["key"]
    beats = {name: measured[name]["beats"].mean() for name in (SHIPPED_BANDS, ANOTHERS, "true")}
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

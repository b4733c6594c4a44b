"""`python -m recipe.objectives.start` asks what an adapter is worth to somebody with few songs of another style.

The style is a band without drums. One adapter is trained on many songs with drums; then, on few songs without, a short
training starts from it and another from nothing. Other songs without drums judge, by lead sheets inferred from vocals.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from common.command import command_app, example, run
from common.config import Config
from common.files import whole_file
from infer.compare.ratings import bootstrap_mean
from models.device import default_device
from models.loading.acestep1 import open_decoder
from models.loading.checkpoint import TINY
from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.world import draw_world
from recipe.objectives.band_measures import BandMeasures, measure_band
from recipe.objectives.bands import bands_of
from recipe.objectives.report import Number, markdown_table
from recipe.objectives.settings import FIRST_SEED, ObjectivesSettings, arm_of
from recipe.objectives.songs import JudgedSongs, make_shards, write_songs
from recipe.objectives.training import placed, train, training_config

ARM = "controlnet+noise+lead_sheet"
MEASURES = ("key", "tempo", "beats", "chords")

app = command_app("Measures what starting from an adapter is worth on few songs of a held-out style.")


class StartSettings(Config):
    """How many songs and steps."""

    many: int = 160
    """Songs with drums."""
    few: int = 20
    """Songs without."""
    judged: int = 48
    """Songs without, of seeds HELD_OUT_SEED and up."""
    long_steps: int = 500
    """On the many."""
    short_steps: int = 200
    """On the few."""
    seeds: tuple[int, ...] = (0, 1, 2)
    objectives: ObjectivesSettings = ObjectivesSettings()
    """How long songs are, what all trainings share, and how bands are drawn."""

    @property
    def seconds(self) -> float:
        return self.objectives.songs.seconds


@dataclass(frozen=True)
class Found:
    """What bands of one adapter or more are like, song by song in the mean over the seeds."""

    name: str
    own: Mapping[str, Sequence[float]]


@app.command(epilog=example("python -m recipe.objectives.start --out start.md"))
def main(
    work: Annotated[
        Path, typer.Option(help="Folder of songs, shards and trainings; rerun to go on.", metavar="DIR")
    ] = (Path("start-work")),
    out: Annotated[Path, typer.Option(help="Gets the table.", metavar="FILE")] = Path("start-work/start.md"),
) -> None:
    found = compare_starts(work, StartSettings())
    nothing = next(one for one in found if one.name == "short training from nothing")
    rows = [(one.name, *(_cell(one.own[name], nothing.own[name]) for name in MEASURES)) for one in found]
    with whole_file(out) as written:
        head = ("adapter", *(f"{name}, and over nothing" for name in MEASURES))
        written.write_text(markdown_table(head, rows), encoding="utf-8", newline="\n")
    typer.echo(out)


def compare_starts(work: Path, settings: StartSettings) -> list[Found]:
    """What the bands of each way are like."""
    judged = _judged(work, settings)
    with_drums = _shards(work, "with drums", islice(seeds_of(FIRST_SEED, drums=True), settings.many), settings.seconds)
    few = _shards(work, "without drums", islice(seeds_of(FIRST_SEED, drums=False), settings.few), settings.seconds)
    made: dict[str, list[tuple[BandMeasures, ...]]] = {}
    for seed in settings.seeds:
        train_on = partial(_trained, work, settings.objectives, seed=seed)
        base = train_on(with_drums, settings.long_steps)
        started = train_on(few, settings.short_steps, init_from=base)
        nothing = train_on(few, settings.short_steps)
        for name, folder, follow in (
            ("trained on songs with drums", base, "own"),
            ("short training from nothing", nothing, "own"),
            ("short training from the first", started, "own"),
            ("the same, another's vocal", started, "another's"),
        ):
            made.setdefault(name, []).append(_measured(judged, settings.objectives, folder, follow))
    return [Found(name, {measure: _by_song(found, measure) for measure in MEASURES}) for name, found in made.items()]


def seeds_of(first: int, *, drums: bool) -> Iterator[int]:
    """Seeds from `first` up whose songs have drums, or have none."""
    return (seed for seed in count(first) if draw_world(seed, 1.0).drums == drums)


def _shards(work: Path, name: str, seeds: Iterator[int], seconds: float) -> Path:
    songs, shards = work / "songs" / name, work / "shards" / name
    write_songs(songs, list(seeds), seconds)
    make_shards(songs, shards, TINY, seconds=seconds)
    return shards


def _judged(work: Path, settings: StartSettings) -> JudgedSongs:
    seeds = list(islice(seeds_of(HELD_OUT_SEED, drums=False), settings.judged))
    shards = _shards(work, "judged", iter(seeds), settings.seconds)
    return JudgedSongs.read(work / "songs" / "judged", shards, seeds, settings.seconds).with_inferred_sheets()


def _trained(
    work: Path, settings: ObjectivesSettings, shards: Path, steps: int, *, seed: int, init_from: Path | None = None
) -> Path:
    config = training_config(arm_of(ARM), settings, steps=steps, seed=seed)
    start = "nothing" if init_from is None else "adapter"
    logs = work / "trainings" / f"{shards.name}, {start}, seed {seed}"
    started = config.model_copy(update={"init_from": None if init_from is None else str(init_from)})
    return train(placed(started, shards=shards, logs=logs), TINY)


def _measured(
    judged: JudgedSongs, settings: ObjectivesSettings, folder: Path, follow: Literal["own", "another's"]
) -> tuple[BandMeasures, ...]:
    bands = bands_of(folder, judged, open_decoder(TINY, default_device()), settings, follow=follow)
    return tuple(
        measure_band(truth, judged.vocal(number), band)
        for number, (truth, band) in enumerate(zip(judged.truths, bands, strict=True))
    )


def _by_song(found: Sequence[Sequence[BandMeasures]], measure: str) -> list[float]:
    return np.mean([[getattr(band, measure) for band in bands] for bands in found], axis=0).tolist()


def _cell(own: Sequence[float], nothing: Sequence[float]) -> str:
    gained = Number.of(bootstrap_mean([one - other for one, other in zip(own, nothing, strict=True)]))
    return f"{np.mean(own):.2f}, {gained}"


if __name__ == "__main__":
    run(app)

"""`python -m recipe.objectives.diversity` asks whether an adapter still makes different bands for one vocal.

For each song several bands from different noise, and how far they are from each other, beside those of the prompt
alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from common.command import command_app, example, run
from common.files import whole_file
from infer.compare.ratings import bootstrap_mean
from infer.evaluate.measures.diversity import distance_db, mean_distance_db
from models.adapters.shipped import SHIPPED
from models.loading.checkpoint import TINY
from recipe.objectives.bands import bands_of
from recipe.objectives.experiment import Experiment
from recipe.objectives.report import Number, markdown_table
from recipe.objectives.settings import ObjectivesSettings, SongSettings
from recipe.objectives.songs import JudgedSongs

BANDS = 3
"""For each song."""

app = command_app("Measures how different the bands of an adapter are that it makes for one vocal.")


@app.command(epilog=example("python -m recipe.objectives.diversity --out diversity.md"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of songs and shards; rerun to go on.", metavar="DIR")] = Path(
        "diversity-work"
    ),
    out: Annotated[Path, typer.Option(help="Gets the table.", metavar="FILE")] = Path("diversity-work/diversity.md"),
    adapter: Annotated[
        list[Path] | None, typer.Option(help="Adapters; may be repeated [those inside Backline].", metavar="DIR")
    ] = None,
    songs: Annotated[int, typer.Option(min=2, help="How many, of seeds 900000 and up.")] = 16,
) -> None:
    experiment = Experiment(TINY, work, ObjectivesSettings(songs=SongSettings(training=2, judged=songs)))
    experiment.make_songs()
    folders = adapter or sorted(path for path in SHIPPED.iterdir() if path.is_dir())
    rows = measure_diversity(experiment, folders)
    with whole_file(out) as written:
        head = ("bands", "distance, dB", "over text2music's")
        written.write_text(markdown_table(head, rows), encoding="utf-8", newline="\n")
    typer.echo(out)


def measure_diversity(experiment: Experiment, folders: Sequence[Path]) -> list[tuple[str, str, str]]:
    """A row for text2music, two for each adapter (one lead sheet for all bands of a vocal, and one drawn for each), and
    one for the true bands of two songs."""
    judged = experiment.judged
    likeliest = [judged.with_inferred_sheets()] * BANDS
    drawn = [judged.with_inferred_sheets(temperature=1.0, seed=seed) for seed in range(BANDS)]
    plain = _distances(experiment, likeliest, folders[0], "nothing")
    true = [judged.band(number) for number in range(len(judged.truths))]
    found = {
        "text2music": plain,
        **{f"{folder.name}, one sheet": _distances(experiment, likeliest, folder, "own") for folder in folders},
        **{f"{folder.name}, a sheet for each": _distances(experiment, drawn, folder, "own") for folder in folders},
        "true, of two songs": [distance_db(band, true[other]) for band, other in zip(true, judged.others, strict=True)],
    }
    return [(name, f"{np.mean(values):.2f}", _ratio(values, plain)) for name, values in found.items()]


def _distances(
    experiment: Experiment, judged: Sequence[JudgedSongs], folder: Path, follow: Literal["own", "nothing"]
) -> list[float]:
    """In dB, of each song's bands, one for each of its lead sheets."""
    made = [
        bands_of(folder, songs, experiment.decoder, experiment.settings, follow=follow, seed=seed)
        for seed, songs in enumerate(judged)
    ]
    return [mean_distance_db(bands) for bands in zip(*made, strict=True)]


def _ratio(values: Sequence[float], plain: Sequence[float]) -> str:
    return str(Number.of(bootstrap_mean([one / other for one, other in zip(values, plain, strict=True)])))


if __name__ == "__main__":
    run(app)

"""`python -m recipe.objectives.edits` asks whether the adapter in the box follows a lead sheet that somebody edits.

Bands are drawn for the true sheet and for each edit of it, from one noise, and all are held against the edit: the
bands of the unedited sheet are the null. The ceiling is the true band against its own sheet, both as fast as the edit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from common.audio.wave import resample
from common.command import command_app, example, run
from common.files import whole_file
from common.music.edits import at_tempo
from common.music.lead_sheet import BeatChord, LeadSheet
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.compare.ratings import bootstrap_mean
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import find_chords
from infer.evaluate.measures.rhythm import tempo_is_right
from infer.evaluate.measures.sheet import chords_of, measure_sheet, window_middles
from models.adapters.shipped import SHIPPED
from models.loading.checkpoint import TINY
from recipe.objectives.bands import bands_of
from recipe.objectives.experiment import Experiment
from recipe.objectives.report import Number, markdown_table
from recipe.objectives.settings import ObjectivesSettings, SongSettings

BAR = 2
"""The third."""
FOURTH, TONE = 5, 2
"""Semitones."""
TEMPOS = (1.25, 2.0)

app = command_app("Measures whether bands follow a lead sheet that somebody edits.")


@dataclass(frozen=True)
class Edit:
    """A way to edit a sheet, and how far a band follows what comes of it, in [0, 1]."""

    edited: Callable[[LeadSheet], LeadSheet]
    measures: Mapping[str, Callable[[LeadSheet, Clip], float]]
    times: float = 1.0
    """How many times as fast it is."""


def another_chord(sheet: LeadSheet) -> LeadSheet:
    """The third bar has one chord, a fourth above that which it began with."""
    bar = sheet.bars[BAR]
    chord = bar.chords[0].chord
    assert chord is not None
    changed = bar.model_copy(update={"chords": (BeatChord(beat=0, chord=chord.shifted(FOURTH)),)})
    return sheet.model_copy(update={"bars": (*sheet.bars[:BAR], changed, *sheet.bars[BAR + 1 :])})


def at_times_the_tempo(times: float, sheet: LeadSheet) -> LeadSheet:
    """So many times as many beats under the same chords."""
    assert sheet.bpm is not None
    return at_tempo(sheet, times * sheet.bpm, float(sheet.starts[-1]))


def faster(sheet: LeadSheet, band: Clip, times: float) -> tuple[LeadSheet, Clip]:
    """A band that plays so many times as fast, and higher with it, and its sheet."""
    bars = [bar.model_copy(update={"bpm": times * bar.bpm}) for bar in sheet.bars]
    wave = resample(band.wave, round(times * MEASURED_RATE_HZ), MEASURED_RATE_HZ)
    return sheet.model_copy(update={"offset": sheet.offset / times, "bars": tuple(bars)}), Clip(wave)


def third_bar_has_its_chord(sheet: LeadSheet, band: Clip) -> float:
    """Share of the half seconds in the third bar whose triad is the sheet's."""
    found = find_chords(band.chroma)
    start, end = sheet.starts[BAR : BAR + 2]
    middles = window_middles(len(found))
    inside = (start <= middles) & (middles < end)
    return float(np.mean(found[inside] == chords_of(sheet, len(found))[inside]))


def has_its_tempo(sheet: LeadSheet, band: Clip) -> float:
    """1 within 4 %, with no octave forgiven."""
    assert sheet.bpm is not None
    return float(tempo_is_right(sheet.bpm, band.pulse.tempo_bpm, (1.0,)))


def keeps_its_beats(sheet: LeadSheet, band: Clip) -> float:
    return measure_sheet(sheet, band).beats


def has_its_signature(sheet: LeadSheet, band: Clip) -> float:
    return measure_sheet(sheet, band).key


EDITS: Mapping[str, Edit] = {
    "another chord in the third bar": Edit(
        another_chord, {"half seconds of that bar with its chord": third_bar_has_its_chord}
    ),
    **{
        f"{times:g} times the tempo": Edit(
            partial(at_times_the_tempo, times),
            {"tempo within 4 %": has_its_tempo, "beats F": keeps_its_beats},
            times,
        )
        for times in TEMPOS
    },
    "all a tone higher": Edit(lambda sheet: sheet.shifted(TONE), {"key signature": has_its_signature}),
}


@dataclass(frozen=True)
class Followed:
    """How far bands follow an edit, by one measure, in the mean over the songs."""

    edit: str
    measure: str
    edited: float
    unedited: float
    """Of the bands of the unedited sheets: the null."""
    difference: Number
    true: float
    """Of the true bands: the ceiling."""


@app.command(epilog=example("python -m recipe.objectives.edits --out edits.md"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of songs and shards; rerun to go on.", metavar="DIR")] = Path(
        "edits-work"
    ),
    out: Annotated[Path, typer.Option(help="Gets the table.", metavar="FILE")] = Path("edits-work/edits.md"),
    adapter: Annotated[Path, typer.Option(help="What follows the sheets.", metavar="DIR")] = SHIPPED / "controlnet",
    songs: Annotated[int, typer.Option(min=2, help="How many judge, of seeds 900000 and up.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 10.0,
) -> None:
    settings = ObjectivesSettings(songs=SongSettings(training=2, judged=songs, seconds=seconds))
    found = measure_edits(Experiment(TINY, work, settings), adapter)
    rows = [
        (one.edit, one.measure, f"{one.edited:.2f}", f"{one.unedited:.2f}", f"{one.difference}", f"{one.true:.2f}")
        for one in found
    ]
    with whole_file(out) as written:
        head = ("edit", "measure", "edited", "not edited", "difference", "true band")
        written.write_text(markdown_table(head, rows), encoding="utf-8", newline="\n")
    typer.echo(out)


def measure_edits(experiment: Experiment, adapter: Path) -> list[Followed]:
    """How the bands that an adapter makes for the judged songs follow each of EDITS."""
    experiment.make_songs()
    true = [sample.lead_sheet for sample in experiment.judged.samples]
    sheets = [sheet for sheet in true if sheet is not None]
    assert len(sheets) == len(true)
    played = [experiment.judged.band(number) for number in range(len(sheets))]
    unedited, found = bands(experiment, adapter, sheets), []
    for name, edit in EDITS.items():
        changed = [edit.edited(sheet) for sheet in sheets]
        edited = bands(experiment, adapter, changed)
        true_bands = [faster(sheet, band, edit.times) for sheet, band in zip(sheets, played, strict=True)]
        for measure, follows in edit.measures.items():
            own, null = (
                [follows(sheet, band) for sheet, band in zip(changed, made, strict=True)] for made in (edited, unedited)
            )
            difference = bootstrap_mean([one - other for one, other in zip(own, null, strict=True)])
            found.append(
                Followed(
                    edit=name,
                    measure=measure,
                    edited=float(np.mean(own)),
                    unedited=float(np.mean(null)),
                    difference=Number.of(difference),
                    true=float(np.mean([follows(sheet, band) for sheet, band in true_bands])),
                )
            )
    return found


def bands(experiment: Experiment, folder: Path, sheets: Sequence[LeadSheet]) -> list[Clip]:
    """Bands of an adapter for the judged songs with these lead sheets, by the settings that it recommends."""
    given = [replace(song, lead_sheet=sheet) for song, sheet in zip(experiment.judged.samples, sheets, strict=True)]
    judged = replace(experiment.judged, samples=tuple(given))
    return bands_of(folder, judged, experiment.decoder, experiment.settings)


if __name__ == "__main__":
    run(app)

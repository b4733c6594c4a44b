"""What `infer evaluate` writes: a table for a terminal, JSON, a plot of each clip, and a page that holds them all."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.canonical import canonical_json
from common.files import check_writable, whole_file
from common.music.chord import TONICS
from common.table import in_columns
from infer.audio.pictures import MEASURED_RATE_HZ, mel_picture
from infer.band.session import Session
from infer.compare.ratings import Interval
from infer.compare.templates import fill
from infer.evaluate.evaluate import SYSTEMS, ClipReport, Evaluation, EvaluationRequest, LoadedItem, evaluate

PAGE_FILE, JSON_FILE, PLOT_FOLDER = "evaluation.html", "evaluation.json", "plots"


@dataclass(frozen=True)
class Measure:
    """How a measure is shown."""

    name: str
    title: str
    better: str
    digits: int = 2


MEASURES = (
    Measure("harmony.z", "harmony: z of the right transposition", "higher, chance 0"),
    Measure("harmony.rank", "harmony: rank of it among 12", "lower, chance 6.5"),
    Measure("harmony.melody_z", "harmony: z by the sung pitches", "higher, chance 0"),
    Measure("harmony.melody_rank", "harmony: rank by them among 12", "lower, chance 6.5"),
    Measure("harmony.tuning_cents", "harmony: cents from the vocal's tuning", "lower, chance 25", digits=0),
    Measure("harmony.key_score", "harmony: key against the vocal's (MIREX)", "higher"),
    Measure("leakage.fine", "leakage: fine structure above null", "lower, clean below 0.05", 3),
    Measure("leakage.projection_db", "leakage: vocal filtered, share of energy, dB", "lower", 1),
    Measure("rhythm.tempo_acc1", "rhythm: tempo right within 4 % (Acc1)", "higher"),
    Measure("rhythm.tempo_acc2", "rhythm: or an octave off (Acc2)", "higher"),
    Measure("rhythm.beat_f", "rhythm: beat F, 70 ms", "higher"),
    Measure("rhythm.cmlt", "rhythm: CMLt", "higher"),
    Measure("rhythm.amlt", "rhythm: AMLt", "higher"),
    Measure("rhythm.onset_f", "rhythm: onset F, 50 ms", "higher"),
    Measure("diversity.distance_db", "diversity: log-mel distance between bands, dB", "near another song's"),
    Measure("sanity.length_error_seconds", "sanity: length less the vocal's, s", "0"),
    Measure("sanity.over_vocal_db", "sanity: level over the vocal, dB", "-18 to 3", 1),
    Measure("sanity.lufs", "sanity: loudness, LUFS", "near the true", 1),
    Measure("sanity.peak_dbfs", "sanity: peak, dBFS", "below 0", 1),
    Measure("sanity.clipped", "sanity: share of clipped samples", "0", 4),
    Measure("sanity.dc_dbfs", "sanity: DC, dBFS", "below -40", 1),
    Measure("sanity.silent", "sanity: share of silent frames", "near the true"),
    Measure("sanity.coverage", "sanity: sounds where the true one does", "1"),
    Measure("sanity.rolloff_hz", "sanity: 95 % roll-off, Hz", "near the true", 0),
    Measure("sanity.flatness", "sanity: flatness", "below 0.3", 3),
    Measure("sanity.stereo_correlation", "sanity: left and right correlate", "near the true"),
)
SET_MEASURES = (
    Measure("mel_fd", "mel-FD to the true set", "lower", 1),
    Measure("mel_kad", "mel-KAD to the true set", "lower, none 0", 3),
    Measure("mel_apa", "mel-APA", "higher, true 1, shuffled 0"),
)
SYSTEM_NOTES = {
    "result": "what is judged",
    "true": "the true accompaniment",
    "codec": "the true one through the codec and back",
    "text2music": "from the prompt alone",
    "shuffled": "another song's accompaniment",
    "vocal": "the vocal itself",
    "noise": "white noise",
}
GUARD_NOTE = "mel-FD, mel-KAD and mel-APA guard against regressions; they compare with nobody's papers."
PLOT_WIDTH, MARGIN, BAR_HEIGHT = 900, 18, 90
RESULT_COLOUR, TRUE_COLOUR, BEAT_COLOUR, INK, PAPER = "#1d6b73", "#c27a1a", "#ffffff", "#1c2327", "#fffefb"
TableCells = tuple[str, ...]


def evaluate_into(folder: Path, request: EvaluationRequest, session: Session | None = None) -> tuple[Evaluation, Path]:
    """Evaluate and write the report into `folder`; what was found, and the page."""
    check_writable(folder)
    plots: list[bytes] = []
    found = evaluate(request, on_item=lambda loaded, report: plots.append(plot(loaded, report)), session=session)
    return found, write_report(found, plots, folder)


def as_json(evaluation: Evaluation) -> str:
    """Everything, for a program."""
    return canonical_json(asdict(evaluation), indent=2)


def as_text(evaluation: Evaluation) -> str:
    """Means with their intervals, set measures, faults and notes, for a terminal."""
    blocks = [f"{title}\n{in_columns(rows)}" for title, rows in tables(evaluation)]
    return "\n\n".join([*blocks, "\n".join(notes(evaluation))])


def tables(evaluation: Evaluation) -> list[tuple[str, list[TableCells]]]:
    """Title and rows of each table, the head first."""
    count = len(evaluation.clips)
    shown = [(f"Means over {count} vocal{'s' * (count != 1)}, with 95 % bootstrap intervals", _mean_rows(evaluation))]
    if evaluation.sets:
        shown.append(("As sets", _set_rows(evaluation)))
    shown.append(("Vocal by vocal", _clip_rows(evaluation.clips)))
    return shown


def notes(evaluation: Evaluation) -> list[str]:
    anchors = ", ".join(f"{system}: {SYSTEM_NOTES[system]}" for system in _systems(evaluation))
    return [f"{anchors}.", *([GUARD_NOTE] if evaluation.sets else []), *evaluation.notes]


def write_report(evaluation: Evaluation, plots: Sequence[bytes], folder: Path) -> Path:
    """Write evaluation.json, plots/KEY.png and, last, evaluation.html, whose path comes back."""
    with whole_file(folder / JSON_FILE) as partial:
        partial.write_text(as_json(evaluation), encoding="utf-8", newline="\n")
    for clip, plot in zip(evaluation.clips, plots, strict=True):
        with whole_file(folder / PLOT_FOLDER / f"{clip.key}.png") as partial:
            partial.write_bytes(plot)
    with whole_file(folder / PAGE_FILE) as partial:
        partial.write_text(_page(evaluation, plots), encoding="utf-8", newline="\n")
    return folder / PAGE_FILE


def plot(loaded: LoadedItem, report: ClipReport) -> bytes:
    """PNG: log-mel of the vocal, of the first band and the true one with their beats; then fits of transpositions."""
    shown = [("vocal", loaded.vocal), ("result", loaded.bands["result"][0])]
    shown += [("true", loaded.true)] if loaded.true is not None else []
    pictures = [mel_picture(clip.wave, width=PLOT_WIDTH) for _, clip in shown]
    height = sum(MARGIN + len(picture) for picture in pictures) + MARGIN + BAR_HEIGHT + MARGIN
    sheet = Image.new("RGB", (PLOT_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (name, clip), picture in zip(shown, pictures, strict=True):
        key = report.keys.get(name) or "no key"
        tempo = "" if name == "vocal" else f", {clip.pulse.tempo_bpm:.0f} bpm, beats marked"
        draw.text((4, top + 3), f"{name}: {key}{tempo}", fill=INK)
        sheet.paste(Image.fromarray(picture), (0, top + MARGIN))
        if name != "vocal":
            _draw_beats(draw, clip.pulse.beats / (clip.wave.shape[1] / MEASURED_RATE_HZ), top + MARGIN)
        top += MARGIN + len(picture)
    _draw_fits(draw, report, top)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return content.getvalue()


def _draw_beats(draw: ImageDraw.ImageDraw, places: np.ndarray, top: int) -> None:
    for place in places:
        draw.line([(place * PLOT_WIDTH, top), (place * PLOT_WIDTH, top + 10)], fill=BEAT_COLOUR, width=2)


def _draw_fits(draw: ImageDraw.ImageDraw, report: ClipReport, top: int) -> None:
    """Bars for 0 to 11 semitones, from the worst fit to the best; the first should be the highest."""
    draw.text(
        (4, top + 3), "fit of the band to the vocal, 0 to 11 semitones up (petrol: result, ochre: true)", fill=INK
    )
    width, bottom = PLOT_WIDTH / len(TONICS), top + MARGIN + BAR_HEIGHT
    for number, (system, fits) in enumerate(report.fits.items()):
        span = max(max(fits) - min(fits), 1e-9)
        for semitones, fit in enumerate(fits):
            left = semitones * width + 4 + number * width / 3
            high = 2 + (BAR_HEIGHT - 6) * (fit - min(fits)) / span
            colour = RESULT_COLOUR if system == "result" else TRUE_COLOUR
            draw.rectangle([(left, bottom - high), (left + width / 3 - 3, bottom)], fill=colour)
    for semitones in range(len(TONICS)):
        draw.text((semitones * width + 8, bottom + 3), f"+{semitones}", fill=INK)


def _systems(evaluation: Evaluation) -> list[str]:
    present = {mean.system for mean in evaluation.means}
    return [system for system in SYSTEMS if system in present]


def _mean_rows(evaluation: Evaluation) -> list[TableCells]:
    found = {(mean.measure, mean.system): mean.mean for mean in evaluation.means}
    return interval_rows(MEASURES, _systems(evaluation), found)


def interval_rows(
    measures: Sequence[Measure], systems: Sequence[str], found: Mapping[tuple[str, str], Interval]
) -> list[TableCells]:
    """A head, then a row for each measure that any system has: its interval of every one, by measure and system."""
    rows: list[TableCells] = [("measure", *systems, "better")]
    for measure in measures:
        cells = [found.get((measure.name, system)) for system in systems]
        if any(cells):
            texts = ["-" if cell is None else shown_interval(cell, measure.digits) for cell in cells]
            rows.append((measure.title, *texts, measure.better))
    return rows


def shown_interval(interval: Interval, digits: int) -> str:
    """0.12 [0.10, 0.14]"""
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _set_rows(evaluation: Evaluation) -> list[TableCells]:
    rows: list[TableCells] = [("measure", *evaluation.sets, "better")]
    for measure in SET_MEASURES:
        values = (figures[measure.name] for figures in evaluation.sets.values())
        rows.append((measure.title, *(f"{value:.{measure.digits}f}" for value in values), measure.better))
    return rows


def _clip_rows(clips: Sequence[ClipReport]) -> list[TableCells]:
    rows: list[TableCells] = [("vocal", "its key", "by", "band's key", "harmony z", "leakage fine", "beat F", "faults")]
    for clip in clips:
        values = clip.values["result"]
        figures = (values.get(name) for name in ("harmony.z", "leakage.fine", "rhythm.beat_f"))
        texts = ("-" if figure is None else f"{figure:.2f}" for figure in figures)
        sure = "-" if clip.key_lead is None else f"{clip.key_lead:.2f}"
        vocal, band = (clip.keys[system] or "none" for system in ("vocal", "result"))
        rows.append((clip.key, vocal, sure, band, *texts, ", ".join(clip.faults) or "none"))
    return rows


def _page(evaluation: Evaluation, plots: Sequence[bytes]) -> str:
    pictures = [base64.b64encode(image).decode() for image in plots]
    return fill(
        "evaluation.html",
        notes=notes(evaluation),
        tables=tables(evaluation),
        plots=zip((clip.key for clip in evaluation.clips), pictures, strict=True),
    )

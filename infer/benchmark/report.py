"""What `infer benchmark` writes: a table for a terminal, benchmark.json, and benchmark.html, a page whole in itself.

The same bands give the same bytes: there are no dates and no folders in them.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.canonical import canonical_json
from common.files import whole_file
from common.table import in_columns
from infer.benchmark.bands import first_seed
from infer.benchmark.benchmark import Benchmark
from infer.compare.ratings import Interval
from infer.compare.templates import fill
from infer.evaluate.report import GUARD_NOTE, MEASURES, SET_MEASURES, SYSTEM_NOTES, Measure, TableCells, interval_rows
from infer.request.text_inputs import NO_PROMPT

CLAP_MEASURES = (
    Measure("clap_fd", "FAD on CLAP embeddings", "lower, true 0", 4),
    Measure("clap_fd_inf", "FAD-inf on CLAP embeddings", "lower, near true's", 4),
    Measure("clap_kad", "KAD on CLAP embeddings", "lower, none 0", 4),
    Measure("clap_apa", "APA on CLAP embeddings", "higher, true 1, shuffled 0"),
)
SEPARATED = Measure(
    "leakage.separated_db", "leakage: what a separator takes for a voice, dB", "lower, near the true", 1
)
PAGE_FILE, JSON_FILE = "benchmark.html", "benchmark.json"


def as_json(found: Benchmark) -> str:
    """Everything, for a program."""
    excerpts = [
        {**excerpt.note.model_dump(), "prompt": prompt, "first_seed": first_seed(excerpt)}
        for excerpt, prompt in found.excerpts.items()
    ]
    values: dict[str, Any] = {
        "dataset": found.title,
        "prompts": found.prompts,
        "excerpts": excerpts,
        "systems": [{"name": system.name, "about": dict(system.about)} for system in found.systems],
        "means": [asdict(mean) for mean in found.means],
        "sets": [asdict(figure) for figure in found.sets],
        "songs": [asdict(song) for song in found.songs],
        "instruments": {name: dict(about) for name, about in found.instruments.items()},
        "notes": list(found.notes),
        "versions": dict(found.versions),
    }
    return canonical_json(values, indent=1)


def as_text(found: Benchmark) -> str:
    """The tables of means and sets, and what is to be known of them, for a terminal."""
    shown = [f"{title}\n{in_columns(rows)}" for title, rows in tables(found)[:-1]]
    return "\n\n".join([*shown, "\n".join(notes(found))])


def write_report(found: Benchmark, folder: Path) -> Path:
    """Write benchmark.json and, last, benchmark.html, whose path comes back. Raises UserError for a full disk."""
    page = fill("evaluation.html", notes=notes(found), tables=tables(found), plots=())
    for name, content in ((JSON_FILE, as_json(found)), (PAGE_FILE, page)):
        with whole_file(folder / name) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")
    return folder / PAGE_FILE


def notes(found: Benchmark) -> list[str]:
    """What was played, the anchors, and what was left out."""
    songs, excerpts = len({excerpt.note.song for excerpt in found.excerpts}), len(found.excerpts)
    keyed = sum(prompt != NO_PROMPT for prompt in found.excerpts.values())
    key = f", with the vocal's key where it is sure ({keyed} of {excerpts})" if found.prompts == "vocal" else " alone"
    anchors = [f"{system.name}: {SYSTEM_NOTES[system.name]}" for system in found.systems if system.name in SYSTEM_NOTES]
    resampled = [f"{s.name}: made at {s.about['rate_hz']} Hz." for s in found.systems if "rate_hz" in s.about]
    return [
        f'{found.title}: {songs} songs, {excerpts} excerpts. Prompt: "{NO_PROMPT}"{key}.',
        f"{', '.join(anchors)}.",
        *resampled,
        *_faults(found),
        *found.notes,
        GUARD_NOTE,
        *(f"{name}: {canonical_json(dict(about)).strip()}." for name, about in found.instruments.items()),
        ", ".join(f"{name} {number}" for name, number in found.versions.items()),
    ]


def _faults(found: Benchmark) -> list[str]:
    """Of each system, in how many excerpts some band has a fault."""
    lines = []
    for system in found.systems:
        counted = sum((Counter(song.faults) for song in found.songs if song.system == system.name), Counter[str]())
        if counted:
            said = ", ".join(f"{fault} {count}" for fault, count in sorted(counted.items()))
            lines.append(f"{system.name}: excerpts of {len(found.excerpts)} with a fault: {said}.")
    return lines


def tables(found: Benchmark) -> list[tuple[str, list[TableCells]]]:
    """Title and rows of each table, the head first."""
    songs = len({excerpt.note.song for excerpt in found.excerpts})
    means = {(mean.measure, mean.system): mean.mean for mean in found.means}
    sets = {(figure.measure, figure.system): Interval(figure.value, figure.low, figure.high) for figure in found.sets}
    systems = [system.name for system in found.systems]
    return [
        (
            f"Means over {songs} songs, with 95 % bootstrap intervals over them",
            interval_rows((*MEASURES, SEPARATED), systems, means),
        ),
        (
            "As sets: the mean over seeds, the lowest and the highest",
            interval_rows((*SET_MEASURES, *CLAP_MEASURES), systems, sets),
        ),
        ("Song by song", _song_rows(found)),
    ]


def _song_rows(found: Benchmark) -> list[TableCells]:
    shown = ("harmony.z", "leakage.fine", "rhythm.beat_f")
    rows: list[TableCells] = [("song", "system", "harmony z", "leakage fine", "beat F", "faults")]
    for song in found.songs:
        texts = ("-" if (value := song.values.get(name)) is None else f"{value:.2f}" for name in shown)
        rows.append((song.song, song.system, *texts, ", ".join(sorted(song.faults)) or "none"))
    return rows

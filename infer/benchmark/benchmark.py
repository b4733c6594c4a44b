"""`infer benchmark`: systems on the test songs of a data set, beside the true bands, the codec and shuffled pairs.

OUT holds excerpts/ (vocals and true bands), bands/SYSTEM/ (of systems that run here), units/ (what is done), and the
report.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import check_writable
from infer.band.session import Session
from infer.benchmark.anchors import CodecBands, ShuffledBands, TrueBands
from infer.benchmark.bands import TEXT2MUSIC, BandOptions, PromptSource, base_of_model, make_system, prompt_of_vocal
from infer.benchmark.dataset import BenchmarkData, check_apart, read_dataset
from infer.benchmark.excerpts import LITERATURE_SECONDS, Excerpt, cut_excerpts
from infer.benchmark.listening import ByInstrument, listen
from infer.benchmark.measured import Instrument, Measured, Measures
from infer.benchmark.sets import FEWEST_WINDOWS, SetFigure, compare_sets
from infer.benchmark.systems import BenchmarkSystem, read_folder, read_named_folder
from infer.compare.inputs import Model, read_models
from infer.compare.ratings import Interval, bootstrap_mean
from infer.evaluate.evaluate import Values, mean_values
from infer.request.request import Runtime
from models.device import chosen_device
from models.loading.checkpoint import resolve_checkpoint, spec_of

ANCHORS = ("true", "codec", TEXT2MUSIC, "shuffled")
"""From the best to the worst; the systems that are judged stand before them."""
FEWEST_SONGS = 2
"""A shuffled pair is of two."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """The flags of `infer benchmark`."""

    dataset: Path
    adapters: tuple[Path, ...] = ()
    systems: tuple[str, ...] = ()  # NAME=FOLDER
    output_dir: Path = Path("benchmark")
    excerpt_seconds: float | None = LITERATURE_SECONDS  # None takes songs whole
    prompts: PromptSource = "vocal"
    clap: Path | None = None  # a folder of a CLAP checkpoint
    separator: Path | None = None  # a folder of a Demucs model
    options: BandOptions = field(default_factory=BandOptions)


@dataclass(frozen=True)
class SongMean:
    """A measure's mean over songs, of each the mean over its excerpts and seeds."""

    measure: str
    system: str
    mean: Interval
    songs: int


@dataclass(frozen=True)
class SongValues:
    """What was measured of a system on a song."""

    system: str
    song: str
    values: Values
    faults: dict[str, int]
    """Excerpts with each fault."""


@dataclass(frozen=True)
class Benchmark:
    """All that `infer benchmark` found."""

    title: str
    prompts: PromptSource
    excerpts: Mapping[Excerpt, str]
    """Each with its prompt."""
    systems: tuple[BenchmarkSystem, ...]
    """The judged ones, then the anchors."""
    means: tuple[SongMean, ...]
    songs: tuple[SongValues, ...]
    sets: tuple[SetFigure, ...]
    instruments: Mapping[str, Mapping[str, Any]]
    """By which weights and versions was measured."""
    notes: tuple[str, ...]
    """What was left out."""
    versions: Mapping[str, str]


def benchmark(request: BenchmarkRequest, session: Session | None = None) -> Benchmark:
    """Cut the excerpts, make what is missing of the bands, measure what is not measured yet, and sum up.

    Folders of other programs and of weights are checked before anything is made. Raises UserError for a data set, an
    adapter or a folder that cannot be used, and for fewer than two songs.
    """
    check_apart(request.dataset, request.output_dir)
    check_writable(request.output_dir)
    session = session or Session()
    models = read_models(request.adapters, session.sha256)
    folders = _folders(request.systems, models)
    data = read_dataset(request.dataset)
    excerpts, unsung = _excerpts(data, request, session)
    instruments = _instruments(request)
    given = [read_folder(name, folder, excerpts, session.sha256) for name, folder in folders.items()]
    prompts = {excerpt: prompt_of_vocal(excerpt.vocal, request.prompts) for excerpt in excerpts}
    base = request.options.checkpoint_dir or (base_of_model(models[0], request.options) if models else None)
    made = _made(request, models, base, prompts, session)
    systems = _beside(made, given, base, excerpts, request, session)
    heard = listen(systems, excerpts, instruments, request.output_dir, session)
    songs, sets = tuple(song_values(systems, excerpts, _together(heard))), tuple(_sets(heard))
    return Benchmark(
        title=data.title,
        prompts=request.prompts,
        excerpts=prompts,
        systems=tuple(systems),
        means=tuple(means_over_songs(songs, systems)),
        songs=songs,
        sets=sets,
        instruments={instrument.name: instrument.about for instrument in instruments},
        notes=(*data.notes, *unsung, *_missing(request, systems, sets)),
        versions={"backline": version("backline"), "torch": str(torch.__version__)},
    )


def _folders(systems: Sequence[str], models: Sequence[Model]) -> dict[str, Path]:
    for model in models:
        if model.name in ANCHORS:
            raise UserError(
                f"an adapter is called {model.name}, as an anchor is. Name it by a JSON file of another name."
            )
    found: dict[str, Path] = {}
    for text in systems:
        name, folder = read_named_folder(text, [*ANCHORS, *(model.name for model in models), *found])
        found[name] = folder
    return found


def _excerpts(data: BenchmarkData, request: BenchmarkRequest, session: Session) -> tuple[list[Excerpt], list[str]]:
    """All excerpts, and what is to be known of songs without any."""
    folder, excerpts, unsung = request.output_dir / "excerpts", list[Excerpt](), list[str]()
    with session.counting(len(data.songs), "cutting excerpts", "songs") as step:
        for song in data.songs:
            cut = cut_excerpts(song, request.excerpt_seconds, folder, session.sha256)
            excerpts += cut
            unsung += [] if cut else [song.name]
            step(1, song.name)
    if len(data.songs) - len(unsung) < FEWEST_SONGS:
        raise UserError(
            f"{request.dataset}: {len(data.songs) - len(unsung)} of {len(data.songs)} songs are sung long enough; a "
            f"benchmark needs {FEWEST_SONGS}."
        )
    counted = f"left out, not sung long enough: {len(unsung)} of {len(data.songs)} songs ({', '.join(unsung)})."
    return excerpts, [counted] if unsung else []


def _made(
    request: BenchmarkRequest,
    models: Sequence[Model],
    base: str | None,
    prompts: Mapping[Excerpt, str],
    session: Session,
) -> list[BenchmarkSystem]:
    """The systems that run here; the last is text2music, where a base model is known."""
    wanted: list[Model | None] = [*models, *([None] if base else [])]
    made = list[BenchmarkSystem]()
    with session.counting(len(wanted) * len(prompts), "making bands", "excerpts") as step:
        for model in wanted:
            options = request.options if model else replace(request.options, checkpoint_dir=base)
            made.append(make_system(model, prompts, options, request.output_dir, session, step))
    return made


def _beside(
    made: Sequence[BenchmarkSystem],
    given: Sequence[BenchmarkSystem],
    base: str | None,
    excerpts: Sequence[Excerpt],
    request: BenchmarkRequest,
    session: Session,
) -> list[BenchmarkSystem]:
    """The judged systems, then their anchors."""
    judged = [system for system in made if system.name != TEXT2MUSIC]
    codec = list[BenchmarkSystem]()
    if base:
        parts = spec_of(base).parts
        runtime = Runtime(
            resolve_checkpoint(base, [parts.codec, *parts.decoders]), chosen_device(request.options.device)
        )
        codec.append(CodecBands(runtime, session))
    return [*judged, *given, TrueBands(), *codec, *made[len(judged) :], ShuffledBands(excerpts)]


def song_values(
    systems: Sequence[BenchmarkSystem], excerpts: Sequence[Excerpt], heard: Mapping[str, Sequence[Measured]]
) -> Iterator[SongValues]:
    """Of each system and song the means over its excerpts; `heard` are the measures of each excerpt by system."""
    for system in systems:
        by_song: dict[str, list[Measured]] = {}
        for excerpt, measured in zip(excerpts, heard[system.name], strict=True):
            by_song.setdefault(excerpt.note.song, []).append(measured)
        for song, found in by_song.items():
            counted = Counter(fault for measured in found for fault in measured.faults)
            yield SongValues(system.name, song, mean_values([measured.values for measured in found]), dict(counted))


def means_over_songs(songs: Sequence[SongValues], systems: Sequence[BenchmarkSystem]) -> Iterator[SongMean]:
    """Means and 95 % bootstrap intervals over songs, of every measure and system."""
    for name in sorted({name for song in songs for name in song.values}):
        for system in systems:
            found = [song.values.get(name) for song in songs if song.system == system.name]
            present = [value for value in found if value is not None]
            if present:
                yield SongMean(name, system.name, bootstrap_mean(present), len(present))


def _instruments(request: BenchmarkRequest) -> list[Instrument]:
    """Those that are wanted; what they need is imported for them alone."""
    instruments, device = list[Instrument]([Measures()]), chosen_device(request.options.device)
    if request.clap is not None:
        from infer.benchmark.clap import Clap

        instruments.append(Clap(request.clap, device))
    if request.separator is not None:
        from infer.benchmark.separated import SeparatedLeakage

        instruments.append(SeparatedLeakage(request.separator, device))
    return instruments


def _together(heard: ByInstrument) -> dict[str, list[Measured]]:
    """What all instruments say of each system and excerpt."""
    found = dict[str, list[Measured]]()
    for system in heard["measures"]:
        for each in zip(*(by_system[system] for by_system in heard.values()), strict=True):
            values = {name: value for measured in each for name, value in measured.values.items()}
            found.setdefault(system, []).append(replace(each[0], values=values))
    return found


def _sets(heard: ByInstrument) -> list[SetFigure]:
    mel = compare_sets("mel", heard["measures"], scaled=True)
    return mel + (compare_sets("clap", heard["clap"], scaled=False, fewest=FEWEST_WINDOWS) if "clap" in heard else [])


def _missing(request: BenchmarkRequest, systems: Sequence[BenchmarkSystem], sets: Sequence[SetFigure]) -> Iterator[str]:
    """What was not measured, and what it needs."""
    if "codec" not in {system.name for system in systems}:
        yield "anchors codec and text2music: need --adapter or --checkpoint-dir."
    if request.clap is None:
        yield "FAD, FAD-inf, KAD and APA on CLAP embeddings: need --clap, the folder of a checkpoint."
    elif not any(figure.measure == "clap_fd_inf" for figure in sets):
        yield f"FAD-inf: needs {2 * FEWEST_WINDOWS} windows, one for each second of the bands of a seed."
    if request.separator is None:
        yield "leakage by a separator: needs --separator, the folder of a Demucs model."

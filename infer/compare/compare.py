"""`infer compare`: every adapter on every sample of a test set, then the page on which they are judged.

OUT holds vocals/KEY/, models/NAME/KEY/, and the page with sounds/: the same files under names that tell no model.
What is made with the same settings is not made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.audio.wave import loudness_lufs, read_audio, to_stereo, write_audio
from common.canonical import sha256_of
from common.errors import UserError
from common.files import check_writable
from common.progress import say
from common.texts.naming import song_of_vocal, text_beside
from infer.band.generate import GeneratedFiles, write_results
from infer.band.inputs import read_inputs
from infer.band.session import CountStep, Session
from infer.compare.inputs import Model, TestSample, read_models, read_test_set
from infer.compare.output import Output, describe, read_output, write_output
from infer.compare.page import Lane, PageRow, write_page
from infer.request.plan import GenerationPlan
from infer.request.record import GenerationSettings
from infer.request.request import (
    AdapterSelection,
    GenerationRequest,
    Precision,
    find_runtime,
    resolve_settings,
    select_adapters,
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The flags of `infer compare`; None is left to adapter.json."""

    test_set: Path
    adapters: tuple[Path, ...]
    output_dir: Path = Path("comparison")
    guidance_scale: float | None = None
    infer_steps: int | None = None
    seed: int = 0
    checkpoint_dir: str | None = None  # by default that of each adapter
    device: str = "auto"
    precision: Precision | None = None


@dataclass(frozen=True)
class CompareJob:
    """One output to be made."""

    item: TestSample
    request: GenerationRequest
    order: str  # hash of all that the output depends on


def compare(comparison: Comparison, session: Session | None = None) -> Path:
    """Make what is missing of every output, then the page, whose path comes back.

    Its networks are those of `session`, or of one of its own, each opened at most once.
    A vocal that is missing or cannot be used is left out with a warning. Raises UserError for a test set or an
    adapter that cannot be read, and where no vocal is left. Raises SessionCancelledError where the session is asked to
    stop; outputs that are finished stay.
    """
    check_writable(comparison.output_dir)
    items = read_test_set(comparison.test_set)
    session = session or Session()
    models = read_models(comparison.adapters, session.sha256)
    vocals = dict(_vocals(items, comparison, session))
    kept = [item for item in items if item.key in vocals]
    if not kept:
        raise UserError(f"{comparison.test_set}: none of its {len(items)} vocals can be used. Mend their vocal_path.")
    lanes: dict[str, list[Lane]] = {item.key: [] for item in kept}
    with session.counting(len(kept) * len(models), "comparing", "bands") as step:
        for model in models:
            for job, output in _perform(model, kept, comparison, session, step):
                lanes[job.item.key].append(Lane(model.name, job.request.output_dir, output))
    rows = [PageRow(item.key, item.prompt, vocals[item.key], tuple(lanes[item.key])) for item in kept]
    return write_page(comparison.output_dir, rows)


def _vocals(items: Sequence[TestSample], comparison: Comparison, session: Session) -> Iterator[tuple[str, Lane]]:
    """The vocals that can be used, by key, copied for the page."""
    for item in items:
        folder = comparison.output_dir / "vocals" / item.key
        try:
            yield item.key, Lane("vocal", folder, _vocal(item, folder, session))
        except UserError as error:
            say(f"warning: {comparison.test_set}: {item.key} is left out: {error}")


def _vocal(item: TestSample, folder: Path, session: Session) -> Output:
    audio = read_audio(item.vocal_path)
    if np.isinf(loudness_lufs(audio.samples, audio.rate_hz)):
        raise UserError(f"{item.vocal_path}: this vocal is silent. Give one that can be heard.")
    order = session.sha256(item.vocal_path)
    output = read_output(folder, order)
    if output is None:
        copy = folder / "vocal.flac"
        write_audio(copy, to_stereo(audio.samples), audio.rate_hz, subtype="PCM_16")
        output = Output(order=order, mix=describe(copy))
        write_output(folder, output)
    return output


def _perform(
    model: Model, items: Sequence[TestSample], comparison: Comparison, session: Session, step: CountStep
) -> Iterator[tuple[CompareJob, Output]]:
    """All outputs of one model. Networks are not opened where all are made."""
    request = _request(model, comparison)
    selection = select_adapters(request)
    settings = resolve_settings(request, selection)
    jobs = [_job(model, item, selection, settings, comparison, session) for item in items]
    known = {job: output for job in jobs if (output := read_output(job.request.output_dir, job.order))}
    step(len(known), "")
    missing = [job for job in jobs if job not in known]
    made = dict(_make(model, selection, settings, missing, session, step)) if missing else {}
    return ((job, known.get(job) or made[job]) for job in jobs)


def _make(
    model: Model,
    selection: AdapterSelection,
    settings: GenerationSettings,
    jobs: Sequence[CompareJob],
    session: Session,
    step: CountStep,
) -> Iterator[tuple[CompareJob, Output]]:
    runtime = find_runtime(jobs[0].request, settings, selection)
    for job in jobs:
        plan = GenerationPlan(job.request, selection, settings, runtime)
        with read_inputs(plan, session) as inputs:
            named = replace(inputs, vocal=replace(inputs.vocal, key=job.item.key))
            drawn = session.draw(plan, named.vocal, named.text, shown=False)
            output = _keep(job, write_results(plan, named, drawn, session, name=job.item.key))
        yield job, output
        step(1, f"{model.name}, {job.item.key}")


def _keep(job: CompareJob, made: GeneratedFiles) -> Output:
    """Pictures and loudness of what was made; the card last."""
    band = describe(made.accompaniments[0]) if made.accompaniments else None
    output = Output(order=job.order, record=made.record.name, band=band, mix=describe(made.mixes[0]))
    write_output(job.request.output_dir, output)
    return output


def _job(
    model: Model,
    item: TestSample,
    selection: AdapterSelection,
    settings: GenerationSettings,
    comparison: Comparison,
    session: Session,
) -> CompareJob:
    order = {
        "adapter": model.sha256,
        "settings": settings.model_dump(mode="json"),
        "checkpoint_dir": selection.checkpoint,
        "vocal": session.sha256(item.vocal_path),
        "prompt": item.prompt,
        "lyrics": item.lyrics_path and session.sha256(item.lyrics_path),
    }
    sheet = text_beside(item.vocal_path, song_of_vocal(item.vocal_path), "lead_sheet")
    if sheet is not None and selection.takes_lead_sheet:
        order["lead_sheet"] = session.sha256(sheet)
    if comparison.precision:
        order["precision"] = comparison.precision
    request = replace(
        _request(model, comparison),
        vocal=item.vocal_path,
        prompt=item.prompt,
        lyrics=item.lyrics_path,
        output_dir=comparison.output_dir / "models" / model.name / item.key,
    )
    return CompareJob(item, request, sha256_of(order))


def _request(model: Model, comparison: Comparison) -> GenerationRequest:
    """`infer generate` with one model, whatever the sample."""
    return GenerationRequest(
        adapters=(model.config.lora_path,),
        ref_strength=model.config.ref_strength,
        lora_weights=() if model.config.lora_weight is None else (model.config.lora_weight,),
        guidance_scale=comparison.guidance_scale,
        infer_steps=comparison.infer_steps,
        seed=comparison.seed,
        checkpoint_dir=comparison.checkpoint_dir,
        device=comparison.device,
        precision=comparison.precision,
    )

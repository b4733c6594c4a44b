"""Bands that are made here, of adapters and of the base model from the prompt alone: three seeds of every excerpt."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from common.audio.wave import read_audio, resample
from common.canonical import sha256_of
from common.errors import UserError
from common.music.measured_tags import SongMeasures, tags_from
from common.music.measures import RATE_HZ, find_key
from common.texts.tags import spelt
from infer.band.generate import write_results
from infer.band.inputs import read_inputs
from infer.band.session import CountStep, Session
from infer.benchmark.excerpts import Excerpt
from infer.benchmark.systems import BandFiles, Take
from infer.benchmark.units import read_unit, write_unit
from infer.compare.inputs import Model
from infer.request.plan import GenerationPlan
from infer.request.request import (
    GenerationRequest,
    Precision,
    find_runtime,
    resolve_settings,
    select_adapters,
)
from infer.request.text_inputs import NO_PROMPT
from models.loading.checkpoint import part_hash

SEEDS = 3
TEXT2MUSIC = "text2music"
PromptSource = Literal["vocal", "none"]


@dataclass(frozen=True, kw_only=True)
class BandOptions:
    """How bands are made; None is left to adapter.json."""

    infer_steps: int | None = None
    checkpoint_dir: str | None = None  # by default that of each adapter
    device: str = "auto"
    precision: Precision | None = None


def prompt_of_vocal(vocal: Path, source: PromptSource) -> str:
    """What is asked of a band: "instrumental", and behind it the key of the vocal alone where that is sure.

    Raises UserError for a file that cannot be read.
    """
    if source == "none":
        return NO_PROMPT
    audio = read_audio(vocal)
    key = find_key(resample(audio.samples.mean(axis=0, keepdims=True), audio.rate_hz, RATE_HZ)[0])
    return spelt([NO_PROMPT, *tags_from(SongMeasures(is_mix=True, tempo=None, key=key, sound=None, register=None))])


def make_system(
    model: Model | None,
    excerpts: Mapping[Excerpt, str],
    options: BandOptions,
    out: Path,
    session: Session,
    step: CountStep,
) -> BandFiles:
    """The bands of an adapter, or of the base model from the prompt alone, below `out`; what is there is kept.

    `excerpts` are given with the prompt of each.
    Raises UserError for an adapter that does not fit its base, or makes whole mixes.
    """
    name = TEXT2MUSIC if model is None else model.name
    request = _request(model, options)
    selection = select_adapters(request)
    if selection.card.output_type != "accompaniment":
        raise UserError(f"{name}: makes whole mixes, of which no band can be measured. Leave it out.")
    settings = resolve_settings(request, selection)
    runtime = find_runtime(replace(request, vocal=next(iter(excerpts)).vocal), settings, selection)
    made_with = {
        "adapter": model and model.sha256,
        "base": {part: part_hash(runtime.base, part) for part in runtime.spec.files},
        "settings": settings.model_dump(mode="json", exclude={"seed"}),
        "dtype": str(runtime.dtype).removeprefix("torch."),
        "backline": version("backline"),
    }
    takes = {}
    for excerpt, prompt in excerpts.items():
        asked = replace(request, vocal=excerpt.vocal, prompt=prompt, output_dir=out / "bands" / name)
        order = sha256_of([made_with, prompt, excerpt.note.vocal_sha256])
        card = out / "units" / "bands" / name / f"{excerpt.key}.json"
        known = _known(card, order, asked.output_dir)
        takes[excerpt.key] = known or _make(
            GenerationPlan(asked, selection, settings.model_copy(update={"seed": first_seed(excerpt)}), runtime),
            excerpt,
            session,
        )
        if known is None:
            write_unit(card, order, [take.note() for take in takes[excerpt.key]])
        step(1, f"{name}, {excerpt.key}")
    return BandFiles(name, takes, made_with)


def first_seed(excerpt: Excerpt) -> int:
    """The first of an excerpt's three seeds, the same for every system.

    Each excerpt has its own, or text2music would play one band to all songs.
    """
    return int(sha256_of(excerpt.key)[:8], 16)


def base_of_model(model: Model, options: BandOptions) -> str:
    """The base model that an adapter runs on: a folder, a Hugging Face id, or tiny."""
    return select_adapters(_request(model, options)).checkpoint


def _known(card: Path, order: str, folder: Path) -> tuple[Take, ...] | None:
    found = read_unit(card, order)
    takes = None if found is None else tuple(Take(folder / take["file"], take["sha256"]) for take in found)
    return takes if takes and all(take.path.is_file() for take in takes) else None


def _make(plan: GenerationPlan, excerpt: Excerpt, session: Session) -> tuple[Take, ...]:
    with read_inputs(plan, session) as inputs:
        drawn = session.draw(plan, inputs.vocal, inputs.text, shown=False)
        made = write_results(plan, inputs, drawn, session, name=excerpt.key)
    return tuple(Take(path, session.sha256(path)) for path in made.accompaniments)


def _request(model: Model | None, options: BandOptions) -> GenerationRequest:
    request = GenerationRequest(
        adapters=(),
        num_samples=SEEDS,
        infer_steps=options.infer_steps,
        checkpoint_dir=options.checkpoint_dir,
        device=options.device,
        precision=options.precision,
    )
    if model is None:
        return request
    weight = model.config.lora_weight
    return replace(
        request,
        adapters=(model.config.lora_path,),
        ref_strength=model.config.ref_strength,
        lora_weights=() if weight is None else (weight,),
    )

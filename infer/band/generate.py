"""`infer generate`, from the first file read to the last one written."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.disk_wave import DiskWave
from common.audio.wave import write_audio_blocks
from common.canonical import unicode_text
from common.files import check_writable, whole_file
from common.music.notation import write_lead_sheet
from infer.audio.mixdown import OUTPUT_RATE_HZ, at_output_rate, below_ceiling, mixdown
from infer.audio.reference import blend_latents
from infer.audio.splice import spliced
from infer.band.inputs import GenerationInputs, read_inputs
from infer.band.session import Session
from infer.request.again import say_changes
from infer.request.naming import free_name
from infer.request.plan import GenerationPlan, plan_generation
from infer.request.record import (
    AdapterRecord,
    AgainRecord,
    GenerationRecord,
    GenerationSettings,
    ResultRecord,
    StyleRecord,
)
from infer.request.request import (
    GenerationRequest,
)
from infer.request.vocal import VocalInput
from models.adapters.adapter import CARD_FILE, AdapterCard
from models.adapters.lora import LORA_FILE
from models.adapters.style import Style
from models.loading.checkpoint import is_whole, part_hash
from models.loading.family import describe_base
from models.protocols import LatentDecoder

BYTES_A_SECOND = OUTPUT_RATE_HZ * 2 * 3
"""Of a result: stereo, 24 bits."""
LEAD_SHEET_ENDING = "_lead_sheet.txt"


@dataclass(frozen=True)
class GeneratedFiles:
    """What `generate` wrote."""

    accompaniments: tuple[Path, ...]  # none from an adapter that makes whole mixes
    mixes: tuple[Path, ...]
    record: Path
    lead_sheet: Path | None = None  # that was followed


def generate(request: GenerationRequest, session: Session | None = None) -> GeneratedFiles:
    """Make `num_samples` accompaniments for one vocal; the record is written last.

    Without a session for several requests, networks are open one after the other.
    Raises UserError for all that a user can mend: flags that contradict each other or are out of range, a vocal that
    cannot be read or is silent or too short, a base or an adapter that is incomplete or does not fit. Raises
    SessionCancelledError where the session is asked to stop.
    """
    session = session or Session(keep=False)
    plan = plan_generation(request)
    with read_inputs(plan, session) as inputs:
        check_disk_space(plan, inputs.vocal)
        drawn = session.draw(plan, inputs.vocal, inputs.text, kept=inputs.kept)
        return write_results(plan, inputs, drawn, session)


def check_disk_space(plan: GenerationPlan, vocal: VocalInput) -> None:
    """Raises UserError where the results will not fit on the disk."""
    files = (plan.selection.card.output_type == "accompaniment") + 1
    seconds = vocal.output_samples / OUTPUT_RATE_HZ
    needed = round(len(plan.seeds) * files * seconds * BYTES_A_SECOND)
    check_writable(plan.request.output_dir, needed_bytes=needed)


def write_results(
    plan: GenerationPlan,
    inputs: GenerationInputs,
    drawn: Sequence[Tensor],
    session: Session,
    *,
    name: str | None = None,
) -> GeneratedFiles:
    """Decode what was `drawn` for each seed and write it; the record is written last.

    Files are called `name`, whatever lies under it; without one, by the vocal's key, or KEY_2, KEY_3, ... where another
    run's results, or a user's own files, have that name. A run that fails takes away what it wrote.
    """
    folder, vocal, record = plan.request.output_dir, inputs.vocal, _record(plan, inputs, session)
    if plan.earlier is not None:
        say_changes(plan.earlier, record)
    decoder = session.decoder(plan.runtime)
    name = name or free_name(folder, record, _endings(plan, vocal))
    planned = [folder / f"{name}{ending}" for ending in _endings(plan, vocal)]
    ours = [path for path in planned if not path.exists()]
    try:
        with _output_wave(session.checked(_vocal_blocks(vocal, decoder)), plan, vocal) as vocal_wave:
            results = tuple(_write(plan, inputs, vocal_wave, drawn, session, name))
        sheet = None
        if record.lead_sheet is not None:
            sheet = folder / f"{name}{LEAD_SHEET_ENDING}"
            with whole_file(sheet) as unfinished:
                unfinished.write_text(record.lead_sheet, encoding="utf-8", newline="\n")
        path = folder / f"{name}.json"
        with whole_file(path) as unfinished:
            written = record.model_copy(update={"results": results}).model_dump_json(indent=2)
            unfinished.write_text(written + "\n", encoding="utf-8", newline="\n")
    except BaseException:
        for path in ours:
            path.unlink(missing_ok=True)
        raise
    return GeneratedFiles(
        accompaniments=tuple(folder / made.accompaniment for made in results if made.accompaniment),
        mixes=tuple(folder / made.mix for made in results),
        record=path,
        lead_sheet=sheet,
    )


def _endings(plan: GenerationPlan, vocal: VocalInput) -> list[str]:
    """What follows the name of each result."""
    sheet = [] if vocal.lead_sheet is None else [LEAD_SHEET_ENDING]
    kinds = ("accompaniment", "mix") if plan.selection.card.output_type == "accompaniment" else ("mix",)
    return [".json", *sheet, *(f"_{kind}{_ending(plan, at)}" for at in range(len(plan.seeds)) for kind in kinds)]


def _ending(plan: GenerationPlan, at: int) -> str:
    return f"_{at + 1:02d}.wav" if len(plan.seeds) > 1 else ".wav"


def _vocal_blocks(vocal: VocalInput, decoder: LatentDecoder) -> Iterator[np.ndarray]:
    return decoder.blocks(vocal.latents, vocal.samples) if vocal.wave is None else vocal.wave.blocks()


def _output_wave(blocks: Iterator[np.ndarray], plan: GenerationPlan, vocal: VocalInput) -> DiskWave:
    """A wave at the codec's rate as it is written: at 48 kHz, as long as the vocal."""
    rate_hz = plan.runtime.spec.latents.sample_rate_hz
    return DiskWave(OUTPUT_RATE_HZ).extend(at_output_rate(blocks, rate_hz, vocal.output_samples))


def _write(
    plan: GenerationPlan,
    inputs: GenerationInputs,
    vocal_wave: DiskWave,
    drawn: Sequence[Tensor],
    session: Session,
    name: str,
) -> Iterator[ResultRecord]:
    """Decode and write each seed's files."""
    vocal, settings, folder = inputs.vocal, plan.settings, plan.request.output_dir
    decoder = session.decoder(plan.runtime)
    for at, (seed, latents) in enumerate(zip(plan.seeds, drawn, strict=True)):
        mix, band = f"{name}_mix{_ending(plan, at)}", None
        blocks = decoder.blocks(_blended(latents, inputs, settings), vocal.samples)
        with _output_wave(session.checked(blocks), plan, vocal) as drawn_wave, _band(drawn_wave, inputs) as made:
            if plan.selection.card.output_type == "accompaniment":
                band = f"{name}_accompaniment{_ending(plan, at)}"
                write_audio_blocks(folder / band, made.blocks(), OUTPUT_RATE_HZ)
            mixed = mixdown(vocal_wave, made, settings.mixdown) if band else below_ceiling(made, settings.mixdown)
            write_audio_blocks(folder / mix, mixed, OUTPUT_RATE_HZ)
        yield ResultRecord(seed=seed, accompaniment=band, mix=mix)


@contextmanager
def _band(drawn: DiskWave, inputs: GenerationInputs) -> Generator[DiskWave]:
    """What was drawn, or the earlier take with it in the region that is made anew."""
    if inputs.earlier is None:
        yield drawn
        return
    with DiskWave(OUTPUT_RATE_HZ) as wave:
        yield wave.extend(spliced(inputs.earlier.wave, drawn, inputs.earlier.region))


def _blended(latents: Tensor, inputs: GenerationInputs, settings: GenerationSettings) -> Tensor:
    if inputs.reference is None or settings.blend is None:
        return latents
    return blend_latents(latents, inputs.reference.latents, settings.blend)


def _record(plan: GenerationPlan, inputs: GenerationInputs, session: Session) -> GenerationRecord:
    """All but the results."""
    runtime, selection = plan.runtime, plan.selection
    codec = runtime.spec.parts.codec
    return GenerationRecord(
        key=inputs.vocal.key,
        vocal=inputs.vocal.record,
        prompt=inputs.text.prompt.tags,
        lyrics=inputs.text.lyrics.text,
        lyrics_language=inputs.text.lyrics.language,
        settings=plan.settings,
        adapters=tuple(map(partial(_adapter_record, session), selection.folders, selection.cards)),
        style=None if selection.style is None else _style_record(session, selection.style),
        lead_sheet=None if inputs.vocal.lead_sheet is None else write_lead_sheet(inputs.vocal.lead_sheet),
        harmoniser=inputs.vocal.harmoniser,
        reference=None if inputs.reference is None else inputs.reference.record,
        again=_again_record(plan, inputs),
        checkpoint_dir=unicode_text(selection.checkpoint),
        base=describe_base(selection.checkpoint, runtime.base, codec),
        base_fingerprint=selection.card.base_fingerprint,
        networks={codec: part_hash(runtime.base, codec)} if is_whole(runtime.base, codec) else {},
        device=str(runtime.device),
        dtype=str(runtime.dtype).removeprefix("torch."),
        rate_hz=OUTPUT_RATE_HZ,
        samples=inputs.vocal.output_samples,
        results=(),
        versions={"backline": version("backline"), "torch": str(torch.__version__)},
    )


def _again_record(plan: GenerationPlan, inputs: GenerationInputs) -> AgainRecord | None:
    if plan.earlier is None or inputs.earlier is None:
        return None
    region, path = plan.earlier.region, unicode_text(plan.earlier.path.as_posix())
    return AgainRecord(take=path, sha256=inputs.earlier.sha256, start_seconds=region.start, end_seconds=region.end)


def _style_record(session: Session, style: Style) -> StyleRecord:
    return StyleRecord(file=unicode_text(style.path.as_posix()), sha256=session.sha256(style.path), weight=style.weight)


def _adapter_record(session: Session, folder: Path, card: AdapterCard) -> AdapterRecord:
    return AdapterRecord(
        folder=unicode_text(folder.as_posix()),
        sha256=session.sha256(folder / (LORA_FILE if card.lora else CARD_FILE)),
        step=card.step,
        conditioning=card.conditioning,
        shards_fingerprint=card.shards_fingerprint,
    )

"""`infer generate`, from the first file read to the last one written.

Networks are open one after the other: the codec's encoder, the text encoder, the transformer, the decoder.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.disk_wave import DiskWave
from common.audio.wave import write_audio_blocks
from common.canonical import sha256_of_file, unicode_text
from common.errors import UserError
from common.files import check_writable, whole_file
from common.progress import say
from common.texts.naming import song_of_vocal, text_beside
from infer.audio.mixdown import OUTPUT_RATE_HZ, at_output_rate, below_ceiling, mixdown
from infer.audio.reference import EncodedReference, blend_latents, read_reference
from infer.band.networks import LatentDecoder, draw
from infer.request.naming import free_name
from infer.request.record import AdapterRecord, GenerationRecord, GenerationSettings, ResultRecord, StyleRecord
from infer.request.request import (
    AdapterSelection,
    GenerationRequest,
    Runtime,
    check_sources,
    find_runtime,
    resolve_settings,
    select_adapters,
)
from infer.request.text_inputs import (
    NO_PROMPT,
    EncodedPrompt,
    TextInputs,
    TokenizedLyrics,
    cached_lyrics,
    cached_prompt,
    embed_prompt,
    read_lyrics,
    read_text_file,
    tokenize,
)
from infer.request.vocal import VocalInput, vocal_from_file, vocal_from_shards
from models.acestep1.text.lyric_tokens import INSTRUMENTAL
from models.adapters.adapter import CARD_FILE, AdapterCard, base_of
from models.adapters.lora import LORA_FILE
from models.adapters.style import Style
from models.loading.checkpoint import is_whole, part_hash
from models.loading.family import CODEC, TEXT, check_alike, describe_base, known_base
from shards.reader import read_manifest, read_song
from shards.schema import Sample

BYTES_A_SECOND = OUTPUT_RATE_HZ * 2 * 3
"""Of a result: stereo, 24 bits."""


@dataclass(frozen=True)
class GeneratedFiles:
    """What `generate` wrote."""

    accompaniments: tuple[Path, ...]  # none from an adapter that makes whole mixes
    mixes: tuple[Path, ...]
    record: Path


@dataclass(frozen=True)
class GenerationInputs:
    """All that is known of one song."""

    vocal: VocalInput
    text: TextInputs
    reference: EncodedReference | None


@dataclass(frozen=True)
class GenerationPlan:
    """A request with all that stands behind its flags."""

    request: GenerationRequest
    selection: AdapterSelection
    settings: GenerationSettings
    runtime: Runtime

    @property
    def lyrics_language(self) -> str:
        """Language that lyrics are read in: as asked for, else as the adapter learned them."""
        return self.request.lyrics_language or self.selection.card.lyrics_language

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.num_samples)


def generate(request: GenerationRequest) -> GeneratedFiles:
    """Make `num_samples` accompaniments for one vocal; the record is written last.

    Raises UserError for all that a user can mend: flags that contradict each other or are out of range, a vocal that
    cannot be read or is silent or too short, a base or an adapter that is incomplete or does not fit.
    """
    plan = plan_generation(request)
    with read_inputs(plan) as inputs:
        check_disk_space(plan, inputs.vocal)
        adapters, runtime = plan.selection.folders, plan.runtime
        drawn = draw(
            inputs.vocal,
            inputs.text,
            plan.settings,
            plan.seeds,
            adapters=adapters,
            runtime=runtime,
            style=plan.selection.style,
        )
        return write_results(plan, inputs, drawn, LatentDecoder.open(runtime))


def plan_generation(request: GenerationRequest) -> GenerationPlan:
    """Check the flags and find what they name. Raises UserError where they cannot be followed."""
    check_sources(request)
    check_writable(request.output_dir)
    selection = select_adapters(request)
    settings = resolve_settings(request, selection)
    return GenerationPlan(request, selection, settings, find_runtime(request, settings, selection))


@contextmanager
def read_inputs(plan: GenerationPlan) -> Generator[GenerationInputs]:
    """The vocal, its words and the reference, for use within the block.

    Encoders are open only while this begins, and only for what no shard holds.
    """
    request, runtime = plan.request, plan.runtime
    if request.vocal is not None:
        lufs = _vocal_lufs(plan.selection)
        with vocal_from_file(request.vocal, base=runtime.base, lufs=lufs, device=runtime.device) as vocal:
            yield GenerationInputs(vocal, _text_of_file(plan, request.vocal), _reference(plan, vocal))
        return
    assert request.shards is not None
    assert request.key is not None
    _check_shards(plan, request.shards)
    segments = read_song(request.shards, request.key)
    vocal = vocal_from_shards(request.shards, request.key, segments)
    yield GenerationInputs(vocal, _text_of_shards(plan, segments[0]), _reference(plan, vocal))


def _check_shards(plan: GenerationPlan, shards: Path) -> None:
    """Raise UserError where latents or prompt are by other networks than what the adapters learned from."""
    manifest = read_manifest(shards)
    networks = manifest.fingerprint.networks
    shared = [CODEC] if plan.request.prompt else [CODEC, TEXT]
    used: dict[str, str] = {name: digest for name, digest in networks.items() if name in shared}
    base = known_base(manifest.base, networks.values())
    for folder, card in zip(plan.selection.folders, plan.selection.cards, strict=True):
        check_alike(shards, base, used, folder, base_of(card), card.networks)


def _vocal_lufs(selection: AdapterSelection) -> float:
    """Loudness that a vocal is brought to."""
    for folder, card in zip(selection.folders, selection.cards, strict=True):
        if card.vocal_lufs is None:
            raise UserError(f"{folder}: its vocal_lufs is null, so no vocal can be levelled to it. Train it anew.")
    assert selection.card.vocal_lufs is not None
    return selection.card.vocal_lufs


def _reference(plan: GenerationPlan, vocal: VocalInput) -> EncodedReference | None:
    if plan.request.blend is None:
        return None
    runtime = plan.runtime
    return read_reference(plan.request.blend, samples=vocal.samples, base=runtime.base, device=runtime.device)


def _text_of_shards(plan: GenerationPlan, first: Sample) -> TextInputs:
    """The text encoder is opened for a prompt that no shard holds, and for what ERG sets against the prompt."""
    given, lyrics = plan.request.prompt, plan.request.lyrics
    prompt = _embed(plan, given) if given else cached_prompt(first)
    if plan.settings.sampler.erg and not given:
        prompt = replace(prompt, weakened=_embed(plan, prompt.tags).weakened)
    return TextInputs(prompt, _read_lyrics(plan, lyrics) if lyrics else _cached_lyrics(plan, first))


def _cached_lyrics(plan: GenerationPlan, first: Sample) -> TokenizedLyrics:
    """The lyrics of shards as they are there, but for another language that was asked for."""
    request = plan.request
    assert request.shards is not None
    cached = cached_lyrics(first, read_manifest(request.shards).lyrics_language)
    if plan.lyrics_language == cached.language or cached.text == INSTRUMENTAL:
        return cached
    if request.lyrics_language is None:
        say(
            f"{request.shards}: its lyrics were read in {cached.language}, the adapter's in {plan.lyrics_language}. "
            f"They stay as they are; --lyrics-language {plan.lyrics_language} reads them anew."
        )
        return cached
    return tokenize(cached.text, first.meta.song, base=plan.runtime.base, language=plan.lyrics_language)


def _read_lyrics(plan: GenerationPlan, path: Path | None) -> TokenizedLyrics:
    return read_lyrics(path, base=plan.runtime.base, language=plan.lyrics_language)


def _text_of_file(plan: GenerationPlan, path: Path) -> TextInputs:
    """Words that are not given lie beside the vocal, where prep looks for them too, or are instrumental."""
    song = song_of_vocal(path)
    beside = None if plan.request.prompt else text_beside(path, song, "prompt")
    tags = plan.request.prompt or (read_text_file(beside) if beside else "")
    if not tags:
        say(f'no --prompt and no {unicode_text(song)}_prompt.txt: taking "{NO_PROMPT}".')
    lyrics = plan.request.lyrics or text_beside(path, song, "lyrics")
    return TextInputs(_embed(plan, tags or NO_PROMPT), _read_lyrics(plan, lyrics))


def _embed(plan: GenerationPlan, tags: str) -> EncodedPrompt:
    runtime = plan.runtime
    return embed_prompt(tags, base=runtime.base, device=runtime.device, erg=plan.settings.sampler.erg)


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
    decoder: LatentDecoder,
    *,
    name: str | None = None,
) -> GeneratedFiles:
    """Decode what was `drawn` for each seed and write it; the record is written last.

    Files are called `name`, whatever lies under it; without one, by the vocal's key, or KEY_2, KEY_3, ... where another
    run's results, or a user's own files, have that name. A run that fails takes away what it wrote.
    """
    folder, vocal, record = plan.request.output_dir, inputs.vocal, _record(plan, inputs)
    name = name or free_name(folder, record, _endings(plan))
    planned = [folder / f"{name}{ending}" for ending in _endings(plan)]
    ours = [path for path in planned if not path.exists()]
    try:
        with _on_tape(_sung(vocal, decoder), vocal) as sung:
            results = tuple(_write(plan, inputs, sung, drawn, decoder, name))
        path = folder / f"{name}.json"
        with whole_file(path) as partial:
            written = record.model_copy(update={"results": results}).model_dump_json(indent=2)
            partial.write_text(written + "\n", encoding="utf-8", newline="\n")
    except BaseException:
        for path in ours:
            path.unlink(missing_ok=True)
        raise
    return GeneratedFiles(
        accompaniments=tuple(folder / made.accompaniment for made in results if made.accompaniment),
        mixes=tuple(folder / made.mix for made in results),
        record=path,
    )


def _endings(plan: GenerationPlan) -> list[str]:
    """What follows the name of each result."""
    kinds = ("accompaniment", "mix") if plan.selection.card.output_type == "accompaniment" else ("mix",)
    return [".json", *(f"_{kind}{_ending(plan, at)}" for at in range(len(plan.seeds)) for kind in kinds)]


def _ending(plan: GenerationPlan, at: int) -> str:
    return f"_{at + 1:02d}.wav" if len(plan.seeds) > 1 else ".wav"


def _sung(vocal: VocalInput, decoder: LatentDecoder) -> Iterator[np.ndarray]:
    return decoder.blocks(vocal.latents, vocal.samples) if vocal.wave is None else vocal.wave.blocks()


def _on_tape(blocks: Iterator[np.ndarray], vocal: VocalInput) -> DiskWave:
    """A wave at 44.1 kHz as it is written: at 48 kHz, as long as the vocal."""
    return DiskWave().extend(at_output_rate(blocks, vocal.output_samples))


def _write(
    plan: GenerationPlan,
    inputs: GenerationInputs,
    sung: DiskWave,
    drawn: Sequence[Tensor],
    decoder: LatentDecoder,
    name: str,
) -> Iterator[ResultRecord]:
    """Decode and write each seed's files."""
    vocal, settings, folder = inputs.vocal, plan.settings, plan.request.output_dir
    for at, (seed, latents) in enumerate(zip(plan.seeds, drawn, strict=True)):
        mix, band = f"{name}_mix{_ending(plan, at)}", None
        with _on_tape(decoder.blocks(_blended(latents, inputs, settings), vocal.samples), vocal) as made:
            if plan.selection.card.output_type == "accompaniment":
                band = f"{name}_accompaniment{_ending(plan, at)}"
                write_audio_blocks(folder / band, made.blocks(), OUTPUT_RATE_HZ)
            mixed = mixdown(sung, made, settings.mixdown) if band else below_ceiling(made, settings.mixdown)
            write_audio_blocks(folder / mix, mixed, OUTPUT_RATE_HZ)
        yield ResultRecord(seed=seed, accompaniment=band, mix=mix)


def _blended(latents: Tensor, inputs: GenerationInputs, settings: GenerationSettings) -> Tensor:
    if inputs.reference is None or settings.blend is None:
        return latents
    return blend_latents(latents, inputs.reference.latents, settings.blend)


def _record(plan: GenerationPlan, inputs: GenerationInputs) -> GenerationRecord:
    """All but the results."""
    runtime, selection = plan.runtime, plan.selection
    return GenerationRecord(
        key=inputs.vocal.key,
        vocal=inputs.vocal.record,
        prompt=inputs.text.prompt.tags,
        lyrics=inputs.text.lyrics.text,
        lyrics_language=inputs.text.lyrics.language,
        settings=plan.settings,
        adapters=tuple(map(_adapter_record, selection.folders, selection.cards)),
        style=None if selection.style is None else _style_record(selection.style),
        reference=None if inputs.reference is None else inputs.reference.record,
        checkpoint_dir=unicode_text(selection.checkpoint),
        base=describe_base(selection.checkpoint, runtime.base, CODEC),
        base_fingerprint=selection.card.base_fingerprint,
        networks={CODEC: part_hash(runtime.base, CODEC)} if is_whole(runtime.base, CODEC) else {},
        device=str(runtime.device),
        dtype=str(runtime.dtype).removeprefix("torch."),
        rate_hz=OUTPUT_RATE_HZ,
        samples=inputs.vocal.output_samples,
        results=(),
        versions={"backline": version("backline"), "torch": str(torch.__version__)},
    )


def _style_record(style: Style) -> StyleRecord:
    return StyleRecord(file=unicode_text(style.path.as_posix()), sha256=sha256_of_file(style.path), weight=style.weight)


def _adapter_record(folder: Path, card: AdapterCard) -> AdapterRecord:
    return AdapterRecord(
        folder=unicode_text(folder.as_posix()),
        sha256=sha256_of_file(folder / (LORA_FILE if card.lora else CARD_FILE)),
        step=card.step,
        conditioning=card.conditioning,
        shards_fingerprint=card.shards_fingerprint,
    )

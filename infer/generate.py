"""`infer generate`, from the first file read to the last one written.

Networks are open one after the other: the codec's encoder, the text encoder, the transformer, the decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from common.audio import write_audio
from common.canonical import sha256_of_file, unicode_text
from common.errors import UserError
from common.files import whole_file
from common.progress import say
from infer.band import Decoder, draw
from infer.mixdown import OUTPUT_RATE_HZ, at_output_rate, below_ceiling, mixdown
from infer.record import AdapterRecord, GenerationSettings, Record, SampleRecord
from infer.request import Place, Request, check_sources, find_place, settle
from infer.vocal import Vocal, vocal_from_file, vocal_from_shards
from infer.words import (
    NO_PROMPT,
    Prompt,
    Words,
    cached_lyrics,
    cached_prompt,
    embed_prompt,
    read_lyrics,
    read_text,
)
from models.adapter import CARD_FILE, AdapterCard, read_card
from models.lora import LORA_FILE
from shards.reader import read_song


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote."""

    accompaniments: tuple[Path, ...]  # none from an adapter that makes whole mixes
    mixes: tuple[Path, ...]
    record: Path


@dataclass(frozen=True)
class Heard:
    """All that the network is given for one song."""

    vocal: Vocal
    words: Words


def generate(request: Request) -> Generated:
    """Make `num_samples` accompaniments for one vocal; the record is written last.

    Raises UserError for all that a user can mend: flags that contradict each other or are out of range, a vocal that
    cannot be read or is silent, too short or too long, a base or an adapter that is incomplete or does not fit.
    """
    check_sources(request)
    card = read_card(request.adapter)
    settings = settle(request, card)
    place = find_place(request)
    heard = hear(request, card, place)
    seeds = range(settings.seed, settings.seed + settings.num_samples)
    drawn = draw(heard.vocal, heard.words, settings, seeds, adapter=request.adapter, place=place)
    return write_results(request, card, settings, place, heard, drawn, Decoder.open(place))


def write_results(
    request: Request,
    card: AdapterCard,
    settings: GenerationSettings,
    place: Place,
    heard: Heard,
    drawn: Sequence[Tensor],
    decoder: Decoder,
) -> Generated:
    """Decode what was `drawn` for the seeds of `settings` and write it; the record is written last."""
    seeds = range(settings.seed, settings.seed + settings.num_samples)
    results = tuple(_write(heard.vocal, seeds, drawn, card, decoder, folder=request.output_dir))
    record = _record(request, card, settings, place, heard, results)
    path = request.output_dir / f"{heard.vocal.key}.json"
    with whole_file(path) as partial:
        partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Generated(
        accompaniments=tuple(request.output_dir / made.accompaniment for made in results if made.accompaniment),
        mixes=tuple(request.output_dir / made.mix for made in results),
        record=path,
    )


def hear(request: Request, card: AdapterCard, place: Place) -> Heard:
    """The vocal and its words. Encoders are open only within this call, and only for what no shard holds."""
    if request.vocal is not None:
        return _hear_file(request, request.vocal, card, place)
    assert request.shards is not None
    assert request.key is not None
    segments = read_song(request.shards, request.key)
    vocal = vocal_from_shards(request.shards, request.key, segments)
    prompt = _embed(request.prompt, place) if request.prompt else cached_prompt(segments[0])
    lyrics = read_lyrics(request.lyrics, base=place.base) if request.lyrics else cached_lyrics(segments[0])
    return Heard(vocal, Words(prompt, lyrics))


def _hear_file(request: Request, path: Path, card: AdapterCard, place: Place) -> Heard:
    """Words that are not given lie beside the vocal, where prep looks for them too, or are instrumental."""
    if card.vocal_lufs is None:
        raise UserError(f"{request.adapter}: its vocal_lufs is null, so no vocal can be levelled to it. Train it anew.")
    vocal = vocal_from_file(path, base=place.base, lufs=card.vocal_lufs, device=place.device)
    beside = {kind: path.with_name(f"{vocal.key}_{kind}.txt") for kind in ("prompt", "lyrics")}
    tags = request.prompt or (read_text(beside["prompt"]) if beside["prompt"].is_file() else "")
    if not tags:
        say(f'no --prompt and no {beside["prompt"].name}: taking "{NO_PROMPT}".')
    lyrics = request.lyrics or (beside["lyrics"] if beside["lyrics"].is_file() else None)
    return Heard(vocal, Words(_embed(tags or NO_PROMPT, place), read_lyrics(lyrics, base=place.base)))


def _embed(tags: str, place: Place) -> Prompt:
    return embed_prompt(tags, base=place.base, device=place.device)


def _write(
    vocal: Vocal, seeds: Sequence[int], drawn: Sequence[Tensor], card: AdapterCard, decoder: Decoder, *, folder: Path
) -> Iterator[SampleRecord]:
    """Decode and write each seed's files."""
    sung = decoder.wave(vocal.latents, vocal.samples) if vocal.wave is None else vocal.wave
    sung = at_output_rate(sung, vocal.output_samples)
    for number, (seed, latents) in enumerate(zip(seeds, drawn, strict=True), start=1):
        ending = f"_{number:02d}.wav" if len(seeds) > 1 else ".wav"
        made = at_output_rate(decoder.wave(latents, vocal.samples), vocal.output_samples)
        mix, band = f"{vocal.key}_mix{ending}", None
        if card.output_type == "accompaniment":
            band = f"{vocal.key}_accompaniment{ending}"
            write_audio(folder / band, made, OUTPUT_RATE_HZ)
        write_audio(folder / mix, mixdown(sung, made) if band else below_ceiling(made), OUTPUT_RATE_HZ)
        yield SampleRecord(seed=seed, accompaniment=band, mix=mix)


def _record(
    request: Request,
    card: AdapterCard,
    settings: GenerationSettings,
    place: Place,
    heard: Heard,
    results: tuple[SampleRecord, ...],
) -> Record:
    return Record(
        key=heard.vocal.key,
        vocal=heard.vocal.record,
        prompt=heard.words.prompt.tags,
        lyrics=heard.words.lyrics.text,
        settings=settings,
        adapter=AdapterRecord(
            folder=unicode_text(request.adapter.as_posix()),
            sha256=sha256_of_file(request.adapter / (LORA_FILE if card.lora else CARD_FILE)),
            step=card.step,
            conditioning=card.conditioning,
            shards_fingerprint=card.shards_fingerprint,
        ),
        checkpoint_dir=unicode_text(request.checkpoint_dir),
        base_fingerprint=card.base_fingerprint,
        device=str(place.device),
        dtype=str(place.dtype).removeprefix("torch."),
        rate_hz=OUTPUT_RATE_HZ,
        samples=heard.vocal.output_samples,
        results=results,
        versions={"backline": version("backline"), "torch": str(torch.__version__)},
    )

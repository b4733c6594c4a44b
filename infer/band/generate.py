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
from infer.audio.reference import Reference, blend_latents, read_reference
from infer.band.band import Decoder, draw
from infer.request.naming import free_name
from infer.request.record import AdapterRecord, GenerationSettings, Record, SampleRecord, StyleRecord
from infer.request.request import Chosen, Place, Request, check_sources, choose, find_place, settle
from infer.request.vocal import Vocal, vocal_from_file, vocal_from_shards
from infer.request.words import (
    NO_PROMPT,
    Lyrics,
    Prompt,
    Words,
    cached_lyrics,
    cached_prompt,
    embed_prompt,
    read_lyrics,
    tokenised,
    written_in,
)
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
class Generated:
    """What `generate` wrote."""

    accompaniments: tuple[Path, ...]  # none from an adapter that makes whole mixes
    mixes: tuple[Path, ...]
    record: Path


@dataclass(frozen=True)
class Heard:
    """All that is known of one song."""

    vocal: Vocal
    words: Words
    reference: Reference | None


@dataclass(frozen=True)
class Order:
    """A request with all that stands behind its flags."""

    request: Request
    chosen: Chosen
    settings: GenerationSettings
    place: Place

    @property
    def lyrics_language(self) -> str:
        """Language that lyrics are read in: as asked for, else as the adapter learned them."""
        return self.request.lyrics_language or self.chosen.card.lyrics_language

    @property
    def seeds(self) -> range:
        return range(self.settings.seed, self.settings.seed + self.settings.num_samples)


def generate(request: Request) -> Generated:
    """Make `num_samples` accompaniments for one vocal; the record is written last.

    Raises UserError for all that a user can mend: flags that contradict each other or are out of range, a vocal that
    cannot be read or is silent or too short, a base or an adapter that is incomplete or does not fit.
    """
    order = take_order(request)
    with hear(order) as heard:
        check_room(order, heard.vocal)
        adapters, place = order.chosen.folders, order.place
        drawn = draw(
            heard.vocal,
            heard.words,
            order.settings,
            order.seeds,
            adapters=adapters,
            place=place,
            style=order.chosen.style,
        )
        return write_results(order, heard, drawn, Decoder.open(place))


def take_order(request: Request) -> Order:
    """Check the flags and find what they name. Raises UserError where they cannot be followed."""
    check_sources(request)
    check_writable(request.output_dir)
    chosen = choose(request)
    settings = settle(request, chosen)
    return Order(request, chosen, settings, find_place(request, settings, chosen))


@contextmanager
def hear(order: Order) -> Generator[Heard]:
    """The vocal, its words and the reference, for use within the block.

    Encoders are open only while this begins, and only for what no shard holds.
    """
    request, place = order.request, order.place
    if request.vocal is not None:
        lufs = _vocal_lufs(order.chosen)
        with vocal_from_file(request.vocal, base=place.base, lufs=lufs, device=place.device) as vocal:
            yield Heard(vocal, _words_of_file(order, request.vocal), _reference(order, vocal))
        return
    assert request.shards is not None
    assert request.key is not None
    _check_shards(order, request.shards)
    segments = read_song(request.shards, request.key)
    vocal = vocal_from_shards(request.shards, request.key, segments)
    yield Heard(vocal, _words_of_shards(order, segments[0]), _reference(order, vocal))


def _check_shards(order: Order, shards: Path) -> None:
    """Raise UserError where latents or prompt are by other networks than what the adapters learned from."""
    manifest = read_manifest(shards)
    networks = manifest.fingerprint.networks
    heard = [CODEC] if order.request.prompt else [CODEC, TEXT]
    used: dict[str, str] = {name: digest for name, digest in networks.items() if name in heard}
    base = known_base(manifest.base, networks.values())
    for folder, card in zip(order.chosen.folders, order.chosen.cards, strict=True):
        check_alike(shards, base, used, folder, base_of(card), card.networks)


def _vocal_lufs(chosen: Chosen) -> float:
    """Loudness that a vocal is brought to."""
    for folder, card in zip(chosen.folders, chosen.cards, strict=True):
        if card.vocal_lufs is None:
            raise UserError(f"{folder}: its vocal_lufs is null, so no vocal can be levelled to it. Train it anew.")
    assert chosen.card.vocal_lufs is not None
    return chosen.card.vocal_lufs


def _reference(order: Order, vocal: Vocal) -> Reference | None:
    if order.request.blend is None:
        return None
    place = order.place
    return read_reference(order.request.blend, samples=vocal.samples, base=place.base, device=place.device)


def _words_of_shards(order: Order, first: Sample) -> Words:
    """The text encoder is opened for a prompt that no shard holds, and for what ERG sets against the prompt."""
    given, lyrics = order.request.prompt, order.request.lyrics
    prompt = _embed(order, given) if given else cached_prompt(first)
    if order.settings.sampler.erg and not given:
        prompt = replace(prompt, weakened=_embed(order, prompt.tags).weakened)
    return Words(prompt, _read_lyrics(order, lyrics) if lyrics else _cached_lyrics(order, first))


def _cached_lyrics(order: Order, first: Sample) -> Lyrics:
    """The lyrics of shards as they are there, but for another language that was asked for."""
    request = order.request
    assert request.shards is not None
    cached = cached_lyrics(first, read_manifest(request.shards).lyrics_language)
    if order.lyrics_language == cached.language or cached.text == INSTRUMENTAL:
        return cached
    if request.lyrics_language is None:
        say(
            f"{request.shards}: its lyrics were read in {cached.language}, the adapter's in {order.lyrics_language}. "
            f"They stay as they are; --lyrics-language {order.lyrics_language} reads them anew."
        )
        return cached
    return tokenised(cached.text, first.meta.song, base=order.place.base, language=order.lyrics_language)


def _read_lyrics(order: Order, path: Path | None) -> Lyrics:
    return read_lyrics(path, base=order.place.base, language=order.lyrics_language)


def _words_of_file(order: Order, path: Path) -> Words:
    """Words that are not given lie beside the vocal, where prep looks for them too, or are instrumental."""
    song = song_of_vocal(path)
    beside = None if order.request.prompt else text_beside(path, song, "prompt")
    tags = order.request.prompt or (written_in(beside) if beside else "")
    if not tags:
        say(f'no --prompt and no {unicode_text(song)}_prompt.txt: taking "{NO_PROMPT}".')
    lyrics = order.request.lyrics or text_beside(path, song, "lyrics")
    return Words(_embed(order, tags or NO_PROMPT), _read_lyrics(order, lyrics))


def _embed(order: Order, tags: str) -> Prompt:
    place = order.place
    return embed_prompt(tags, base=place.base, device=place.device, erg=order.settings.sampler.erg)


def check_room(order: Order, vocal: Vocal) -> None:
    """Raises UserError where the results will not fit on the disk."""
    files = (order.chosen.card.output_type == "accompaniment") + 1
    seconds = vocal.output_samples / OUTPUT_RATE_HZ
    needed = round(len(order.seeds) * files * seconds * BYTES_A_SECOND)
    check_writable(order.request.output_dir, needed_bytes=needed)


def write_results(
    order: Order, heard: Heard, drawn: Sequence[Tensor], decoder: Decoder, *, name: str | None = None
) -> Generated:
    """Decode what was `drawn` for each seed and write it; the record is written last.

    Files are called `name`, whatever lies under it; without one, by the vocal's key, or KEY_2, KEY_3, ... where another
    run's results, or a user's own files, have that name. A run that fails takes away what it wrote.
    """
    folder, vocal, record = order.request.output_dir, heard.vocal, _record(order, heard)
    name = name or free_name(folder, record, _endings(order))
    planned = [folder / f"{name}{ending}" for ending in _endings(order)]
    ours = [path for path in planned if not path.exists()]
    try:
        with _on_tape(_sung(vocal, decoder), vocal) as sung:
            results = tuple(_write(order, heard, sung, drawn, decoder, name))
        path = folder / f"{name}.json"
        with whole_file(path) as partial:
            written = record.model_copy(update={"results": results}).model_dump_json(indent=2)
            partial.write_text(written + "\n", encoding="utf-8", newline="\n")
    except BaseException:
        for path in ours:
            path.unlink(missing_ok=True)
        raise
    return Generated(
        accompaniments=tuple(folder / made.accompaniment for made in results if made.accompaniment),
        mixes=tuple(folder / made.mix for made in results),
        record=path,
    )


def _endings(order: Order) -> list[str]:
    """What follows the name of each result."""
    kinds = ("accompaniment", "mix") if order.chosen.card.output_type == "accompaniment" else ("mix",)
    return [".json", *(f"_{kind}{_ending(order, at)}" for at in range(len(order.seeds)) for kind in kinds)]


def _ending(order: Order, at: int) -> str:
    return f"_{at + 1:02d}.wav" if len(order.seeds) > 1 else ".wav"


def _sung(vocal: Vocal, decoder: Decoder) -> Iterator[np.ndarray]:
    return decoder.blocks(vocal.latents, vocal.samples) if vocal.wave is None else vocal.wave.blocks()


def _on_tape(blocks: Iterator[np.ndarray], vocal: Vocal) -> DiskWave:
    """A wave at 44.1 kHz as it is written: at 48 kHz, as long as the vocal."""
    return DiskWave().extend(at_output_rate(blocks, vocal.output_samples))


def _write(
    order: Order, heard: Heard, sung: DiskWave, drawn: Sequence[Tensor], decoder: Decoder, name: str
) -> Iterator[SampleRecord]:
    """Decode and write each seed's files."""
    vocal, settings, folder = heard.vocal, order.settings, order.request.output_dir
    for at, (seed, latents) in enumerate(zip(order.seeds, drawn, strict=True)):
        mix, band = f"{name}_mix{_ending(order, at)}", None
        with _on_tape(decoder.blocks(_blended(latents, heard, settings), vocal.samples), vocal) as made:
            if order.chosen.card.output_type == "accompaniment":
                band = f"{name}_accompaniment{_ending(order, at)}"
                write_audio_blocks(folder / band, made.blocks(), OUTPUT_RATE_HZ)
            mixed = mixdown(sung, made, settings.mixdown) if band else below_ceiling(made, settings.mixdown)
            write_audio_blocks(folder / mix, mixed, OUTPUT_RATE_HZ)
        yield SampleRecord(seed=seed, accompaniment=band, mix=mix)


def _blended(latents: Tensor, heard: Heard, settings: GenerationSettings) -> Tensor:
    if heard.reference is None or settings.blend is None:
        return latents
    return blend_latents(latents, heard.reference.latents, settings.blend)


def _record(order: Order, heard: Heard) -> Record:
    """All but the results."""
    place, chosen = order.place, order.chosen
    return Record(
        key=heard.vocal.key,
        vocal=heard.vocal.record,
        prompt=heard.words.prompt.tags,
        lyrics=heard.words.lyrics.text,
        lyrics_language=heard.words.lyrics.language,
        settings=order.settings,
        adapters=tuple(map(_adapter_record, chosen.folders, chosen.cards)),
        style=None if chosen.style is None else _style_record(chosen.style),
        reference=None if heard.reference is None else heard.reference.record,
        checkpoint_dir=unicode_text(chosen.checkpoint),
        base=describe_base(chosen.checkpoint, place.base, CODEC),
        base_fingerprint=chosen.card.base_fingerprint,
        networks={CODEC: part_hash(place.base, CODEC)} if is_whole(place.base, CODEC) else {},
        device=str(place.device),
        dtype=str(place.dtype).removeprefix("torch."),
        rate_hz=OUTPUT_RATE_HZ,
        samples=heard.vocal.output_samples,
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

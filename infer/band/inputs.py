"""What a generation starts from: a vocal, its lead sheet, prompt and lyrics, and a reference, from files or shards."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from common.canonical import unicode_text
from common.errors import UserError
from common.music.edits import at_tempo
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet
from common.progress import say
from common.texts.naming import song_of_vocal, text_beside
from infer.audio.mixdown import OUTPUT_RATE_HZ
from infer.audio.reference import EncodedReference, read_reference
from infer.band.earlier import EncodedTake, read_earlier
from infer.band.session import Session
from infer.request.harmonise import harmoniser_record, sheet_of_wave
from infer.request.lead_sheet import changed_sheet, lead_sheet_of_file, lead_sheet_of_shards, say_uncovered
from infer.request.plan import GenerationPlan
from infer.request.record import HarmoniserRecord
from infer.request.request import AdapterSelection
from infer.request.text_inputs import (
    NO_PROMPT,
    EncodedPrompt,
    TextInputs,
    TokenizedLyrics,
    cached_lyrics,
    cached_prompt,
    cached_reduced_lyrics,
    embed_prompt,
    read_lyrics,
    read_text_file,
    tokenize,
)
from infer.request.vocal import VocalInput, vocal_from_file, vocal_from_shards
from models.adapters.adapter import base_of
from models.flow.kept import KeptLatents
from models.loading.checkpoint import lyrics_reduced
from models.loading.family import check_alike, known_base
from shards.reader import read_manifest, read_song
from shards.schema import Sample

SOME_BEATS = at_tempo(LeadSheet(), 100.0, 0.0)
"""Stands for a lead sheet that is not inferred yet."""


@dataclass(frozen=True)
class GenerationInputs:
    """All that is known of one song."""

    vocal: VocalInput
    text: TextInputs
    reference: EncodedReference | None
    earlier: EncodedTake | None = None  # of which a region is made anew

    @property
    def kept(self) -> KeptLatents | None:
        """What the sampler leaves as it is."""
        return None if self.earlier is None else self.earlier.kept


@contextmanager
def read_inputs(plan: GenerationPlan, session: Session) -> Generator[GenerationInputs]:
    """The vocal with its lead sheet, its words and the reference, for use within the block.

    Encoders are opened only for what no shard holds. Raises UserError for what cannot be read or does not fit.
    """
    request = plan.request
    if request.vocal is not None:
        latents, lufs = plan.runtime.spec.latents, _vocal_lufs(plan.selection)
        encoder = partial(session.codec_encoder, plan.runtime)
        sheet = _sheet_of_earlier(plan) or lead_sheet_of_file(request, plan.selection, request.vocal)
        changed_sheet(sheet or SOME_BEATS, request, 0.0)  # refused before anything is encoded
        with vocal_from_file(request.vocal, latents, encoder=encoder, sha256=session.sha256, lufs=lufs) as sung:
            vocal = _with_sheet(sung, sheet, plan)
            text = _text_of_file(plan, session, request.vocal, vocal.record.seconds)
            with read_earlier(plan, session, vocal) as earlier:
                yield GenerationInputs(vocal, text, _reference(plan, session, vocal), earlier)
        return
    assert request.shards is not None
    assert request.key is not None
    check_shards(plan, request.shards)
    segments = read_song(request.shards, request.key)
    vocal = vocal_from_shards(request.shards, request.key, segments, plan.runtime.spec.latents.sample_rate_hz)
    sheet = _sheet_of_earlier(plan) or lead_sheet_of_shards(request, plan.selection, segments)
    vocal = _with_sheet(vocal, sheet, plan)
    text = text_of_shards(plan, session, segments[0], vocal.record.seconds)
    with read_earlier(plan, session, vocal) as earlier:
        yield GenerationInputs(vocal, text, _reference(plan, session, vocal), earlier)


def _sheet_of_earlier(plan: GenerationPlan) -> LeadSheet | None:
    """What the rest of the take follows, unless the request names another sheet."""
    earlier = plan.earlier
    if earlier is None or earlier.record.lead_sheet is None or plan.request.lead_sheet is not None:
        return None
    return read_lead_sheet(earlier.record.lead_sheet, str(earlier.path)) if plan.selection.takes_lead_sheet else None


def _with_sheet(vocal: VocalInput, sheet: LeadSheet | None, plan: GenerationPlan) -> VocalInput:
    """The vocal with the sheet that its adapters follow, or that it tells itself, changed as the request says.

    At strength 0 the vocal tells nothing, so that text2music is what it is without one.
    """
    if not plan.selection.takes_lead_sheet:
        return vocal
    counts = plan.settings.ref_strength > 0
    if sheet is None and vocal.wave is not None and counts:
        harmoniser = plan.selection.harmoniser
        sheet = sheet_of_wave(vocal.wave, harmoniser)
        vocal = replace(vocal, harmoniser=None if sheet is None else harmoniser_record(harmoniser))
    else:
        _say_idle_harmoniser(plan, sheet, counts=counts)
        vocal = replace(vocal, harmoniser=_harmoniser_of_earlier(plan))
    seconds = vocal.output_samples / OUTPUT_RATE_HZ
    sheet = changed_sheet(sheet, plan.request, seconds)
    if sheet is not None or counts:
        say_uncovered(sheet, seconds)
    return replace(vocal, lead_sheet=sheet)


def _harmoniser_of_earlier(plan: GenerationPlan) -> HarmoniserRecord | None:
    """What inferred the sheet that the rest of the take follows."""
    return None if plan.earlier is None or _sheet_of_earlier(plan) is None else plan.earlier.record.harmoniser


def _say_idle_harmoniser(plan: GenerationPlan, sheet: LeadSheet | None, *, counts: bool) -> None:
    if plan.request.harmoniser is None:
        return
    if sheet is not None:
        why = "there is a lead sheet already"
    else:
        why = "the vocal comes from shards" if counts else "at strength 0 the vocal tells no lead sheet"
    say(f"--harmoniser {plan.request.harmoniser}: infers nothing; {why}.")


def check_shards(plan: GenerationPlan, shards: Path) -> None:
    """Raises UserError where latents or prompt are by other networks than what the adapters learned from."""
    manifest = read_manifest(shards)
    networks = manifest.fingerprint.networks
    parts = manifest.spec.parts
    shared = [parts.codec] if plan.request.prompt else parts.encoders
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


def _reference(plan: GenerationPlan, session: Session, vocal: VocalInput) -> EncodedReference | None:
    if plan.request.blend is None:
        return None
    encoder = partial(session.codec_encoder, plan.runtime)
    latents, samples = plan.runtime.spec.latents, vocal.samples
    return read_reference(plan.request.blend, latents, samples=samples, encoder=encoder, sha256=session.sha256)


def text_of_shards(plan: GenerationPlan, session: Session, first: Sample, seconds: float) -> TextInputs:
    """The text encoder is opened for a prompt that no shard holds, and for what ERG sets against the prompt."""
    given, lyrics = plan.request.prompt, plan.request.lyrics
    prompt = _embed(plan, session, given, seconds) if given else cached_prompt(first)
    if plan.settings.sampler.erg and not given:
        prompt = replace(prompt, weakened=_embed(plan, session, prompt.tags, seconds).weakened)
    if lyrics is None and plan.earlier is None:
        return TextInputs(prompt, _cached_lyrics(plan, session, first))
    return TextInputs(prompt, _read_lyrics(plan, session, lyrics))


def _cached_lyrics(plan: GenerationPlan, session: Session, first: Sample) -> TokenizedLyrics:
    """The lyrics of shards as they are there, but for what the adapter was not trained with or another language."""
    request = plan.request
    assert request.shards is not None
    cached = cached_lyrics(first, read_manifest(request.shards).lyrics_language)
    spec, content = plan.runtime.spec, plan.lyrics_content
    reduced = lyrics_reduced(spec, cached.text, content)
    if reduced != cached.text:
        held = cached_reduced_lyrics(first, reduced, content, cached.language)
        return held or _tokenize(plan, session, reduced, first.meta.song, cached.language)
    if plan.lyrics_language == cached.language or cached.text == lyrics_reduced(spec, "", "instrumental"):
        return cached
    if request.lyrics_language is None:
        say(
            f"{request.shards}: its lyrics were read in {cached.language}, the adapter's in {plan.lyrics_language}. "
            f"They stay as they are; --lyrics-language {plan.lyrics_language} reads them anew."
        )
        return cached
    return _tokenize(plan, session, cached.text, first.meta.song, plan.lyrics_language)


def _tokenize(plan: GenerationPlan, session: Session, text: str, source: str, language: str) -> TokenizedLyrics:
    return tokenize(text, source, reader=session.lyric_reader(plan.runtime), language=language)


def _read_lyrics(plan: GenerationPlan, session: Session, path: Path | None) -> TokenizedLyrics:
    """Those of a file; where none is asked for, what an earlier take was made with."""
    if plan.request.lyrics is None and plan.earlier is not None:
        return _tokenize(plan, session, plan.earlier.record.lyrics, str(plan.earlier.path), plan.lyrics_language)
    reader = partial(session.lyric_reader, plan.runtime)
    spec, language = plan.runtime.spec, plan.lyrics_language
    return read_lyrics(path, plan.lyrics_content, spec=spec, reader=reader, language=language)


def _text_of_file(plan: GenerationPlan, session: Session, path: Path, seconds: float) -> TextInputs:
    """Words that are not given lie beside the vocal, where prep looks for them too, or are instrumental."""
    song = song_of_vocal(path)
    beside = None if plan.request.prompt else text_beside(path, song, "prompt")
    tags = plan.request.prompt or (read_text_file(beside) if beside else "")
    if not tags:
        say(f'no --prompt and no {unicode_text(song)}_prompt.txt: taking "{NO_PROMPT}".')
    lyrics = plan.request.lyrics or text_beside(path, song, "lyrics")
    return TextInputs(_embed(plan, session, tags or NO_PROMPT, seconds), _read_lyrics(plan, session, lyrics))


def _embed(plan: GenerationPlan, session: Session, tags: str, seconds: float) -> EncodedPrompt:
    has_source = bool(plan.selection.folders) or plan.settings.ref_strength > 0
    encoder, erg = session.text_encoder(plan.runtime), plan.settings.sampler.erg
    return embed_prompt(tags, encoder, seconds=seconds, has_source=has_source, erg=erg)

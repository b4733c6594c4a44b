"""What the user asked for, and what becomes of it together with the adapter's card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from common.bases import BaseSpec
from common.config import check_config
from common.errors import UserError
from common.progress import say
from common.texts.lyrics import LyricsContent
from infer.request.record import GenerationSettings, StyleSettings
from infer.request.sampling import given, recommended_sampler, sampler_values
from infer.request.strength import is_guided
from models.adapters.adapter import AdapterCard, base_of, check_adapter, read_card
from models.adapters.bare import bare_card
from models.adapters.combined import combine_cards
from models.adapters.harmoniser import find_harmoniser
from models.adapters.style import Style, find_style
from models.device import chosen_device
from models.flow.sampler import SamplerSettings
from models.harmony.network import open_harmony_network
from models.harmony.trained import SHIPPED_HARMONISER
from models.loading.checkpoint import check_lyrics_language, part_hash, resolve_checkpoint, spec_of, variant_of
from models.loading.family import check_one_base, check_one_family, choose_checkpoint

Precision = Literal["32", "bf16"]
"""Number format of the transformer, as the flag --precision names it."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The flags of `infer generate`; None is left to adapter.json, then to the default."""

    adapters: tuple[Path, ...]  # none: the base model from the prompt alone
    vocal: Path | None = None  # either an audio file,
    shards: Path | None = None  # or shards
    key: str | None = None  # and a song in them
    prompt: str | None = None
    lyrics: Path | None = None
    lyrics_language: str | None = None
    lyrics_content: LyricsContent | None = None  # by default what the adapter was trained with
    ref_strength: float | None = None
    lora_weights: tuple[float, ...] = ()  # one for each adapter, or none
    style_lora: Path | None = None  # a LoRA of another program, or a folder that holds one
    style_weight: float | None = None
    infer_steps: int | None = None
    scheduler: str | None = None
    omega_scale: float | None = None
    guidance: str | None = None
    guidance_scale: float | None = None
    guidance_interval: float | None = None
    guidance_interval_decay: float | None = None
    min_guidance_scale: float | None = None
    vocal_guidance_scale: float | None = None
    erg: bool | None = None
    lead_sheet: Path | None = None  # a file that the band follows beside the vocal,
    tempo: float | None = None  # and what of it is to be another: beats a minute,
    musical_key: str | None = None  # a key as in "A minor",
    chords: str | None = None  # bars as in "| C | Am | F G |", over and over
    harmoniser: Path | None = None  # what infers a sheet from the vocal, by default the adapter's own or Backline's
    settings: tuple[str, ...] = ()  # of the sampler, as --set names them: sampler.shift=2
    blend: Path | None = None
    mix_ratio: float | None = None
    preserve_low: bool = False
    preserve_high: bool = False
    mixdown_vocal_db: float | None = None
    mixdown_peak_dbfs: float | None = None
    again: Path | None = None  # the record of an earlier take, of which a region is made anew:
    again_from: float | None = None  # seconds
    again_to: float | None = None
    seed: int | None = None  # by default 0; with `again` the one after that take's
    num_samples: int = 1
    output_dir: Path = Path("outputs")
    checkpoint_dir: str | None = None  # by default that of the first adapter
    device: str = "auto"
    precision: Precision | None = None


@dataclass(frozen=True)
class AdapterSelection:
    """The adapters of a request, and the style beside them."""

    folders: tuple[Path, ...]
    cards: tuple[AdapterCard, ...]
    weights: tuple[float, ...]
    card: AdapterCard  # that of their combination; of a single one, its own
    checkpoint: str  # the base they were trained on: a folder, a Hugging Face id, or tiny
    style: Style | None = None
    harmoniser: Path = SHIPPED_HARMONISER  # what infers lead sheets for them

    @property
    def takes_lead_sheet(self) -> bool:
        """Whether they follow a lead sheet; adapters that are combined all do, or none."""
        return self.card.conditioning.lead_sheet is not None


@dataclass(frozen=True)
class Runtime:
    """Where the networks come from and where they run."""

    base: Path
    device: torch.device
    precision: Precision | None = None

    @property
    def spec(self) -> BaseSpec:
        """The base model."""
        return spec_of(self.base)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer; by default bfloat16, as published, on a GPU, and float32 on a CPU."""
        wanted = self.precision or ("32" if self.device.type == "cpu" else "bf16")
        return torch.float32 if wanted == "32" else torch.bfloat16


def check_sources(request: GenerationRequest) -> None:
    """Raises UserError unless the vocal comes from exactly one place."""
    if (request.vocal is None) == (request.shards is None):
        raise UserError("the vocal comes from --vocal FILE or from --shards DIR --key KEY. Give one of the two.")
    if request.vocal is not None and request.key is not None:
        raise UserError("--key names a song of --shards; a --vocal file is one song. Leave --key out.")
    if request.shards is not None and request.key is None:
        raise UserError(f"--shards {request.shards}: which song? Name it with --key (prep inspect lists them).")


def select_adapters(request: GenerationRequest) -> AdapterSelection:
    """The adapters and their weights: as given, else those that their cards recommend, shared out among them.

    Raises UserError for a folder that is no adapter or no harmoniser, weights that do not match, adapters that do not
    go together, and a lead sheet that they do not take; without any, for a strength or where no base is named.
    """
    folders, weights = request.adapters, request.lora_weights
    cards = tuple(read_card(folder) for folder in folders)
    if weights and len(weights) != len(folders):
        counts = f"{len(weights)} --lora-weight for {len(folders)} --adapter"
        raise UserError(f"{counts}. Give one for each adapter, in their order, or none.")
    if not folders:
        return _checked(request, _select_none(request))
    weights = weights or tuple(card.lora_weight / len(cards) for card in cards)
    combined = combine_cards(folders, cards, weights)
    checkpoint = choose_checkpoint(request.checkpoint_dir, base_of(cards[0]), folders[0])
    harmoniser = request.harmoniser or find_harmoniser(folders, cards)
    selection = AdapterSelection(folders, cards, weights, combined, checkpoint, _style(request), harmoniser)
    checked = _checked(request, selection)
    if request.harmoniser is not None:
        open_harmony_network(request.harmoniser)  # refused before anything is encoded
    return checked


def _checked(request: GenerationRequest, selection: AdapterSelection) -> AdapterSelection:
    """Raises UserError for adapters of another base model, a lead sheet, or a part of one, that they do not take, an
    unknown language of lyrics, and what a base model's latents cannot do."""
    spec = spec_of(selection.checkpoint)
    for folder, card in zip(selection.folders, selection.cards, strict=True):
        check_one_base(folder, base_of(card), selection.checkpoint, spec)
    if request.lyrics_language is not None:
        check_lyrics_language(spec, request.lyrics_language)
    if (request.preserve_low or request.preserve_high) and spec.latents.rows == 1:
        flag = "--preserve-low" if request.preserve_low else "--preserve-high"
        raise UserError(
            f"{flag}: latents of {spec.name} have no rows for low and high frequencies. Leave it out; --mix-ratio "
            "blends all of them."
        )
    asked = {
        "--lead-sheet": request.lead_sheet,
        "--tempo": request.tempo,
        "--musical-key": request.musical_key,
        "--chords": request.chords,
        "--harmoniser": request.harmoniser,
    }
    for flag, value in asked.items():
        if value is not None and not selection.takes_lead_sheet:
            which = selection.folders[0] if selection.folders else "no adapter"
            raise UserError(
                f"{flag} {value}: {which} takes no lead sheet. Train one with --set accompaniment.lead_sheet=true, or "
                f"leave {flag} out."
            )
    return selection


def _select_none(request: GenerationRequest) -> AdapterSelection:
    """The base model as it is, which a vocal reaches only where it has a slot for one."""
    checkpoint = choose_checkpoint(request.checkpoint_dir, None)
    spec = spec_of(checkpoint)
    if request.ref_strength and not spec.has_source_slot:
        raise UserError(
            f"--ref-strength {request.ref_strength:g}: without an adapter nothing takes the vocal in. Give --adapter."
        )
    base = resolve_checkpoint(checkpoint, [spec.parts.transformer])
    card = bare_card(spec, part_hash(base, spec.parts.transformer), variant_of(base))
    return AdapterSelection((), (), (), card, checkpoint, _style(request))


def _style(request: GenerationRequest) -> Style | None:
    weight = request.style_weight
    if request.style_lora is not None:
        values = given(style_weight=weight)
        return find_style(request.style_lora, check_config(StyleSettings, values, "infer generate").style_weight)
    if weight is not None:
        raise UserError(f"--style-weight {weight:g}: of which LoRA? Name it with --style-lora FILE.")
    return None


def resolve_settings(
    request: GenerationRequest, selection: AdapterSelection, *, sampler: SamplerSettings | None = None
) -> GenerationSettings:
    """Each number from its flag, else from the adapter's card, else the default of the card.

    `sampler` stands in the place of the card's.

    Raises UserError for one that is out of range, unknown or given twice; says so where the strength is outside what an
    adapter was trained with.
    """
    card = selection.card
    values = {
        "ref_strength": card.reference_strength if request.ref_strength is None else request.ref_strength,
        "lora_weights": selection.weights,
        "seed": request.seed or 0,
        "num_samples": request.num_samples,
        "sampler": sampler_values(sampler or recommended_sampler(selection), request),
        "blend": _blend(request),
        "mixdown": given(vocal_db=request.mixdown_vocal_db, peak_dbfs=request.mixdown_peak_dbfs),
    }
    settings = check_config(GenerationSettings, values, "infer generate")
    if settings.sampler.vocal_guidance_scale is not None and not card.conditioning.can_be_guided:
        raise UserError(
            "sampler.vocal_guidance_scale: this adapter takes the vocal from its noise alone, over which nothing can "
            "guide. Leave it out."
        )
    if not is_guided(settings, card):
        _warn_of_strength(settings.ref_strength, card)
    _warn_of_languages(request, selection)
    return settings


def _blend(request: GenerationRequest) -> dict[str, Any] | None:
    values = given(
        mix_ratio=request.mix_ratio,
        preserve_low=request.preserve_low or None,
        preserve_high=request.preserve_high or None,
    )
    if request.blend is not None:
        return values
    if values:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in values)
        raise UserError(f"{flags}: of which reference? Name it with --blend FILE.")
    return None


def _warn_of_strength(strength: float, card: AdapterCard) -> None:
    low, high = card.strength_range
    if strength and not low <= strength <= high:
        say(
            f"--ref-strength {strength:g} is outside the strengths that this adapter was trained with, "
            f"{low:g} to {high:g}: it may follow the vocal less well."
        )


def _warn_of_languages(request: GenerationRequest, selection: AdapterSelection) -> None:
    languages = dict.fromkeys(card.lyrics_language for card in selection.cards)
    if len(languages) > 1 and request.lyrics_language is None:
        say(
            f"these adapters were trained with lyrics in {' and '.join(languages)}: taking {next(iter(languages))}, "
            "the first's. --lyrics-language chooses."
        )


def find_runtime(request: GenerationRequest, settings: GenerationSettings, selection: AdapterSelection) -> Runtime:
    """The base and the device.

    Raises UserError for a base without the parts that are needed, of parts that do not go together or with what the
    adapters were trained on, and where there is no such device.
    """
    parts, device = _parts(request, settings, spec_of(selection.checkpoint)), chosen_device(request.device)
    base = resolve_checkpoint(selection.checkpoint, parts)
    check_one_family(selection.checkpoint, base, parts)
    for folder, card in zip(selection.folders, selection.cards, strict=True):
        check_adapter(folder, card, selection.checkpoint, base, parts=parts)
    return Runtime(base, device, request.precision)


def _parts(request: GenerationRequest, settings: GenerationSettings, spec: BaseSpec) -> list[str]:
    """A song of shards with its own prompt needs no text encoder, but for ERG."""
    parts = [spec.parts.transformer, *spec.parts.decoders]
    reads_rows = spec.has_lyric_rows and (request.lyrics or request.lyrics_language)
    reads = request.prompt or request.vocal or settings.sampler.erg or reads_rows
    return [*parts, spec.parts.text_encoder] if reads else parts

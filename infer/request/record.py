"""KEY.json: everything that one generation used, written beside its results."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.bases import BaseOrigin
from common.config import Config
from infer.audio.mixdown import MixdownSettings
from infer.audio.reference import BlendSettings, ReferenceRecord
from models.adapters.conditioning import Conditioning
from models.flow.sampler import SamplerSettings


class GenerationSettings(Config):
    """The numbers of a generation, each from its flag, else from adapter.json, else the default."""

    ref_strength: Annotated[float, Field(ge=0, le=1)]
    """How much the vocal counts; 0 is text2music."""
    lora_weights: tuple[Annotated[float, Field(ge=0, le=2)], ...]
    """Weight of each adapter's LoRA."""
    sampler: SamplerSettings
    blend: BlendSettings | None
    """How a reference accompaniment is blended in; null without one."""
    mixdown: MixdownSettings
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Seed of the first sample; the others count up from it."""
    num_samples: Annotated[int, Field(ge=1, le=1000)]
    """How many accompaniments."""


class SettingsOverride(Config):
    """What --set of `infer generate` may change; of what it leaves out, adapter.json decides."""

    sampler: SamplerSettings = SamplerSettings()


class StyleSettings(Config):
    """How a LoRA of another program is used."""

    style_weight: Annotated[float, Field(ge=0, le=16)] = 1.0
    """Weight of its update; it goes above 1 because many files have lost the scale that they were trained with."""


class StyleRecord(Config):
    """A LoRA of another program that was active beside the adapters."""

    file: str
    sha256: str
    weight: float


class VocalRecord(Config):
    """Where the vocal came from: a file, or segments in shards."""

    seconds: float
    file: str | None = None
    sha256: str | None = None
    """Of the file; of the latents where the vocal came from shards."""
    lufs: float | None = None
    """Loudness that the file was brought to before it was encoded: that of the training vocals."""
    shards: str | None = None
    segments: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Self:
        if self.file is None and self.shards is None:
            raise ValueError("names neither a file nor shards")
        return self


class AdapterRecord(Config):
    """Which adapter."""

    folder: str
    sha256: str
    """Of its LoRA file; of its card where the LoRA is merged into the base."""
    step: int
    """Training steps behind it."""
    conditioning: Conditioning
    shards_fingerprint: str


class HarmoniserRecord(Config):
    """Which harmoniser."""

    folder: str
    sha256: str


class ResultRecord(Config):
    """One result."""

    seed: int
    accompaniment: Annotated[str, Field(pattern=r"^[^/]*[^/.][^/]*$")] | None
    """File beside this one; null for an adapter that makes whole mixes."""
    mix: str


class AgainRecord(Config):
    """Which earlier take a region was made anew of; the seed and all else are as of any take."""

    take: str
    """Its record."""
    sha256: str
    """Of its accompaniment, which the result is, bit for bit, outside the region."""
    start_seconds: float
    end_seconds: float


class GenerationRecord(Config):
    """KEY.json."""

    key: str
    vocal: VocalRecord
    prompt: str
    lyrics: str
    lyrics_language: str = "en"
    """Language that they were read in."""
    settings: GenerationSettings
    adapters: tuple[AdapterRecord, ...]
    style: StyleRecord | None = None
    lead_sheet: str | None = Field(default=None, exclude_if=lambda sheet: sheet is None)
    """The lead sheet that the band follows, as text; absent without one."""
    harmoniser: HarmoniserRecord | None = Field(default=None, exclude_if=lambda harmoniser: harmoniser is None)
    """What inferred that sheet from the vocal; absent where it was given."""
    reference: ReferenceRecord | None
    """The reference accompaniment that was blended in."""
    again: AgainRecord | None = Field(default=None, exclude_if=lambda again: again is None)
    """The take of which a region was made anew; absent where the whole was made."""
    checkpoint_dir: str
    base: BaseOrigin | None = None
    """The base model that the checkpoint was."""
    base_fingerprint: str
    """Hash of the transformer."""
    networks: dict[str, str] = Field(default_factory=dict)
    """Hash of the codec, by its name; empty where only its decoder was there."""
    device: str
    dtype: str
    """Number format of the transformer."""
    rate_hz: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)]
    """Length of every result at rate_hz."""
    results: tuple[ResultRecord, ...]
    versions: dict[str, str]
    """Of Backline and torch."""

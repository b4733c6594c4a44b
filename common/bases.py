"""The base models that Backline knows, each a value, and which of them latents and adapters belong to.

A base model is a family of checkpoints that share a layout of latents, a folder layout and a way to be conditioned and
sampled. What of them is code (their networks) is in models/; everything else is here, without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Literal

from pydantic import Field, field_validator

from common.config import Config
from common.latents import LatentLayout, LatentStatistics

CONFIG_FILE = "config.json"
BUNDLED = ("tiny", "tiny15", "tiny15-turbo")
"""Words that name the small checkpoints inside Backline."""
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class PartNames:
    """A checkpoint's parts, by the names of their folders; shards and adapters name the networks so, too."""

    transformer: str
    codec: str
    vocoder: str
    """The codec again where that makes sound by itself."""
    text_encoder: str

    @property
    def encoders(self) -> tuple[str, str]:
        """What makes latents and a prompt's states."""
        return self.codec, self.text_encoder

    @property
    def decoders(self) -> tuple[str, ...]:
        """What makes sound of latents."""
        return tuple(dict.fromkeys((self.codec, self.vocoder)))


@dataclass(frozen=True)
class Sampling:
    """How upstream samples a checkpoint: the settings of models/flow/sampler.py in which base models differ."""

    steps: int
    shift: float
    guidance_scale: float
    guidance_interval: float
    omega_scale: float


@dataclass(frozen=True)
class NoiseLevels:
    """How upstream draws the noise levels that a checkpoint is trained at: the sigmoid of a normal number, shifted."""

    mean: float = 0.0
    """Of the normal number."""
    points: int | None = None
    """Points of the even grid that levels are rounded to before the shift; None for none."""
    only: tuple[float, ...] | None = None
    """The levels of a checkpoint that knows but these, as they are: each is as likely."""


@dataclass(frozen=True)
class BaseSpec:
    """A base model."""

    name: str
    published_id: str
    """Hugging Face id."""
    latents: LatentLayout
    parts: PartNames
    files: Mapping[str, tuple[str, ...]]
    """What each part computes with: its config, weights (always the second) and tokenizer."""
    lyric_vocabulary: str | None
    """File beside the parts that turns the words of lyrics into token ids; None where the text encoder does."""
    text_width: int
    """Width of a prompt's states."""
    text_tokens: int
    """Longest prompt."""
    shift: float
    """Shift of the sigmas that it was trained with."""
    shifts_ends: bool
    """Whether the ends of its even sampling grid are shifted, too, before all of the grid is."""
    samplings: Mapping[str, Sampling]
    """How each of its variants is sampled."""
    noise_levels: Mapping[str, NoiseLevels]
    """How noise levels are drawn that each of its variants is trained at."""
    block_frames: int
    """Latent frames under one token of the transformer's blocks."""
    longest_seconds: float
    """Longest clip that the network takes at once; longer songs go through it in windows."""
    shards_version: Literal[1, 2] = 2
    """Version of the format of its shards (docs/shards.md)."""
    shares_adapters: bool = False
    """Whether an adapter of one of its checkpoints may be used on another."""
    has_source_slot: bool = False
    """Whether its network takes the latents of a source track beside the noisy ones."""
    has_learned_null: bool = False
    """Whether it was trained without words by a condition of its own, in the place of prompt and lyrics together."""
    compares_velocities: bool = False
    """Whether it was trained on errors of velocities, not of the clean estimates that they lead to."""
    has_feature_losses: bool = True
    """Whether its network has the projections that SSL features are compared through."""
    variant_ids: tuple[str, ...] = ()
    """Hugging Face ids of other checkpoints of this base model."""

    def weights_file(self, part: str) -> str:
        """Name of the file that holds a part's weights."""
        return self.files[part][1]

    @property
    def has_lyric_rows(self) -> bool:
        """Whether lyrics condition it as rows of its text encoder's embedding, not as token ids."""
        return self.lyric_vocabulary is None

    @property
    def longest_frames(self) -> int:
        """`longest_seconds` in latent frames."""
        return ceil(self.longest_seconds * self.latents.frames_per_second)


LYRIC_VOCABULARY_FILE = "lyric_vocab.json"
_PARTS = PartNames(
    transformer="ace_step_transformer", codec="music_dcae_f8c8", vocoder="music_vocoder", text_encoder="umt5-base"
)
_WEIGHTS = "diffusion_pytorch_model.safetensors"

ACE_STEP_1 = BaseSpec(
    name="ace-step-1",
    published_id="ACE-Step/ACE-Step-v1-3.5B",
    latents=LatentLayout(sample_rate_hz=44_100, frame_samples=4096, channels=8, rows=16),
    parts=_PARTS,
    files={
        _PARTS.transformer: (CONFIG_FILE, _WEIGHTS),
        _PARTS.codec: (CONFIG_FILE, _WEIGHTS),
        _PARTS.vocoder: (CONFIG_FILE, _WEIGHTS),
        _PARTS.text_encoder: (CONFIG_FILE, "model.safetensors", TOKENIZER_FILE),
    },
    lyric_vocabulary=LYRIC_VOCABULARY_FILE,
    text_width=768,
    text_tokens=256,
    shift=3.0,
    shifts_ends=True,
    samplings={"base": Sampling(steps=60, shift=3.0, guidance_scale=15.0, guidance_interval=0.5, omega_scale=10.0)},
    noise_levels={"base": NoiseLevels(points=1000)},
    block_frames=1,
    longest_seconds=240.0,
    shards_version=1,
)
"""ACE-Step v1. A latent frame is 8 mel frames of 512 samples: 10.77 a second."""

_PARTS_15 = PartNames(
    transformer="acestep-v15", codec="acestep-v15-vae", vocoder="acestep-v15-vae", text_encoder="Qwen3-Embedding-0.6B"
)

_GUIDED_15 = Sampling(steps=50, shift=1.0, guidance_scale=7.0, guidance_interval=1.0, omega_scale=0.0)
_DISTILLED_15 = Sampling(steps=8, shift=3.0, guidance_scale=1.0, guidance_interval=1.0, omega_scale=0.0)
_LEVELS_15 = NoiseLevels(mean=-0.4)
_LEVELS_DISTILLED_15 = NoiseLevels(only=(1.0, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3))

ACE_STEP_15 = BaseSpec(
    name="ace-step-1.5",
    published_id="ACE-Step/Ace-Step1.5",
    latents=LatentLayout(sample_rate_hz=48_000, frame_samples=1920, channels=64, rows=1),
    parts=_PARTS_15,
    files={
        _PARTS_15.transformer: (CONFIG_FILE, "model.safetensors", "silence_latent.pt"),
        _PARTS_15.codec: (CONFIG_FILE, _WEIGHTS),
        _PARTS_15.text_encoder: (CONFIG_FILE, "model.safetensors", TOKENIZER_FILE),
    },
    lyric_vocabulary=None,
    text_width=1024,
    text_tokens=256,
    shift=1.0,
    shifts_ends=False,
    samplings={
        "base": _GUIDED_15,
        "sft": _GUIDED_15,
        "turbo": _DISTILLED_15,
        "turbo-shift1": replace(_DISTILLED_15, shift=1.0),
        "turbo-shift3": _DISTILLED_15,
        "turbo-continuous": _DISTILLED_15,
    },
    noise_levels={
        "base": _LEVELS_15,
        "sft": _LEVELS_15,
        "turbo": _LEVELS_DISTILLED_15,
        "turbo-shift1": NoiseLevels(only=(1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)),
        "turbo-shift3": _LEVELS_DISTILLED_15,
        "turbo-continuous": _LEVELS_DISTILLED_15,
    },
    block_frames=2,
    longest_seconds=600.0,
    shares_adapters=True,
    has_source_slot=True,
    has_learned_null=True,
    compares_velocities=True,
    has_feature_losses=False,
    variant_ids=(
        *(f"ACE-Step/acestep-v15-{size}{kind}" for size in ("", "xl-") for kind in ("base", "sft", "turbo")),
        *(f"ACE-Step/acestep-v15-turbo-{kind}" for kind in ("shift1", "shift3", "continuous")),
        "ACE-Step/acestep-v15-xl-turbo-diffusers",
    ),
)
"""ACE-Step 1.5: 25 latent frames a second. `shift` is that of the variants base and sft; those that were distilled have
their own (turbo-continuous takes any from 1 to 5), and guidance in their weights. The longest clip is as long as the
latent of silence that comes with it. Folders are named by variant and layout, which models/loading/acestep15.py knows.
"""

BASES: Mapping[str, BaseSpec] = {spec.name: spec for spec in (ACE_STEP_1, ACE_STEP_15)}
"""Every base model by its name."""


class BaseOrigin(Config):
    """Which base model latents or an adapter belong to, and where it came from, as their files name it."""

    model: str = Field(default=ACE_STEP_1.name, exclude_if=lambda name: name == ACE_STEP_1.name)
    """Name of the base model; files of ACE-Step v1 leave it out, as when there was no other."""
    variant: str | None = Field(default=None, exclude_if=lambda variant: variant is None)
    """Which of the base model's variants an adapter was trained on; left out where there is but one, and in shards,
    whose latents serve all."""
    family: str | None = None
    """ "ace-step-1" or "ace-step-1.5" for networks of the published sizes, "tiny" or "tiny15" for those of a bundle;
    null for others."""
    checkpoint: Annotated[str, Field(pattern=rf"^({'|'.join(BUNDLED)}|\w[\w.-]*/\w[\w.-]*)$")] | None = None
    """A word of BUNDLED or a Hugging Face id; null where it was a folder."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of the Hugging Face repository."""

    @field_validator("model")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in BASES:
            raise ValueError(f"{name} is a base model that this Backline does not know ({', '.join(BASES)}); update it")
        return name

    @property
    def spec(self) -> BaseSpec:
        """The base model."""
        return BASES[self.model]

    @property
    def name(self) -> str | None:
        """What --checkpoint-dir takes for it."""
        return f"{self.checkpoint}@{self.revision}" if self.revision else self.checkpoint


def recorded_spec(base: BaseOrigin | None) -> BaseSpec:
    """The base model that a file names; ACE-Step v1 where it is older than that."""
    return base.spec if base else ACE_STEP_1


def check_statistics(statistics: LatentStatistics | None, spec: BaseSpec) -> None:
    """Raise ValueError where statistics are not of this base model's latents."""
    wanted = (spec.latents.channels, spec.latents.rows)
    if statistics is not None and statistics.shape != wanted:
        found, expected = (f"{channels} channels of {rows} rows" for channels, rows in (statistics.shape, wanted))
        raise ValueError(f"statistics are of {found}, latents of {spec.name} have {expected}")

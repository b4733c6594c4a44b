"""What decides the bytes that prep makes; every field is part of the fingerprint."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.audio.wave import LOUDNESS_BLOCK_SECONDS, PEAK_CEILING_DBFS
from common.config import Config, load_config
from common.latents import LatentLayout
from shards.schema import Part, SslName, Target
from shards.writer import SHARD_SAMPLES

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decibels = Annotated[float, Field(ge=-100.0, le=0.0)]


class SeparatorConfig(Config):
    """How the vocal is taken out of a full song."""

    name: str = "auto"
    """A Demucs model by its published name (htdemucs, htdemucs_ft, ...), a folder with its yaml and safetensors, none
    for folders of stems only, or auto: demucs/ of the checkpoint where it has one, else htdemucs."""
    command: str | None = None
    """A program to separate with instead, as "prog {mix} {out}": it reads the WAV file {mix} and leaves a vocal or a
    band in the folder {out}. From the command line only."""
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    """Share of one of Demucs' own windows that overlaps the next."""
    keep: bool = True
    """Separated vocals are kept for builds with other base models; changes no bytes."""
    gate_db: Annotated[float, Field(gt=0.0)] | None = 40.0
    """Parts of the separated vocal this far below its loud parts are bleed and are faded out; null keeps them."""


class StemsConfig(Config):
    """Given stems, held against each other."""

    max_leak_db: Decibels = -10.0
    """A song is rejected where more of the part made by subtraction than this share of its energy is the other stem (of
    the inst is the vocal, where both were given)."""
    max_residual_db: Annotated[float, Field(ge=-100.0, le=100.0)] = -9.0
    """A song is rejected where vocal and inst leave more than this of the given mix, against the mix."""
    swapped: Literal["reject", "keep"] = "reject"
    """What becomes of a song whose vocal looks like a band and whose inst like a voice."""


class TrimConfig(Config):
    """Silence before and after a song."""

    silence_dbfs: Decibels = -60.0
    """A mix below this level is silence."""
    keep_seconds: Annotated[float, Field(ge=0.0)] = 0.1
    """Silence that stays on either side."""


class SegmentConfig(Config):
    """Cutting long songs."""

    max_seconds: Annotated[float, Field(gt=0.0, le=240.0)] = 240.0
    """Longest segment; longer songs are cut at quiet points."""
    min_seconds: Annotated[float, Field(ge=LOUDNESS_BLOCK_SECONDS)] = 1.0
    """Shortest segment; a shorter song is rejected."""
    search_seconds: Annotated[float, Field(ge=0.0)] = 15.0
    """How far before the limit a quiet point is looked for."""

    @model_validator(mode="after")
    def _room_to_cut(self) -> Self:
        if self.search_seconds + 2 * self.min_seconds > self.max_seconds:
            needed = f"search_seconds {self.search_seconds:g} + 2 x min_seconds {self.min_seconds:g}"
            raise ValueError(f"max_seconds {self.max_seconds:g} is less than {needed}; raise it or lower the others")
        return self


class EncodeConfig(Config):
    """The codec's encoder."""

    piece_seconds: Annotated[float, Field(ge=1.0)] = 20.0
    """Longer segments are encoded in pieces of no more than this, in the memory of a piece; but for rounding (1.1e-5 at
    most was measured, and float16 has steps of 1e-3) latents are those of the whole segment."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network. bf16 is for GPUs: it moves latents by 1 % of their deviation, and most CPUs are slower
    with it."""

    def piece_frames(self, latents: LatentLayout) -> int:
        """`piece_seconds` in whole latent frames."""
        return int(self.piece_seconds * latents.frames_per_second)


class LoudnessConfig(Config):
    """The one gain that all parts of a segment get."""

    target_lufs: Annotated[float, Field(ge=-70.0, le=0.0)] = -14.0
    """Loudness after the gain."""
    measure: Part = "mix"
    """The part that is brought to it (the mix where that part is silent)."""
    peak_dbfs: Decibels = PEAK_CEILING_DBFS
    """No part's peak goes above this; the gain is lowered where one would."""


class TextConfig(Config):
    """Prompts and lyrics."""

    tag_orders: Annotated[int, Field(ge=1, le=64)] = 4
    """Orders of a prompt's tags that are embedded, the first as written (fewer where there are not that many)."""
    seed: int = 0
    """Chooses the other orders."""
    lyrics_language: str = "en"
    """Language that lines of words are read in; Japanese, Korean and Chinese letters need the extra `lyrics`."""
    prompt_cache_mib: Annotated[int, Field(ge=0)] = 256
    """MiB of prompts' states that each worker keeps for songs that share a prompt; changes no bytes (4 orders of 32
    tokens take 0.2 MiB)."""


class AugmentConfig(Config):
    """Further songs, made of those of the folder."""

    semitones: tuple[Annotated[int, Field(ge=-12, le=12)], ...] = ()
    """Vocal and band are shifted alike by each of these, with key tags and lead sheets, and kept as songs of their own;
    [0]: none. Empty: as in the shards that are there."""
    gain_db: Annotated[float, Field(ge=0, le=20)] = 0.0
    """Each of those songs is brought to a loudness of its own, chosen by its key, all its parts alike: up to so much
    above or below loudness.target_lufs."""


class PrepConfig(Config):
    """configs/prep_base.json, and what --config and --set may change."""

    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = ("inst", "mix")
    """What the shards hold beside the vocal."""
    ssl: tuple[SslName, ...] = ()
    """Networks whose features of each target are kept for the trainer's SSL loss: 80 times the size of the latents."""
    vocal_features: Annotated[bool, Field(exclude_if=lambda wanted: not wanted)] = False
    """Pitch, onsets and level of the vocal are kept, for a harmoniser to learn from, 36 kB a minute; false: as in the
    shards that are there."""
    separator: SeparatorConfig = SeparatorConfig()
    stems: StemsConfig = StemsConfig()
    silent_channel: Literal["keep", "fill"] = "keep"
    """A channel of a file that is silent while the other sounds: kept so, or filled from the other."""
    trim: TrimConfig = TrimConfig()
    segment: SegmentConfig = SegmentConfig()
    loudness: LoudnessConfig = LoudnessConfig()
    encode: EncodeConfig = EncodeConfig()
    text: TextConfig = TextConfig()
    augment: Annotated[AugmentConfig, Field(exclude_if=lambda augment: augment.gain_db == 0)] = AugmentConfig()
    min_vocal_activity: Fraction = 0.02
    """A song that is sung for a smaller share of its time is rejected as instrumental."""
    shard_samples: Annotated[int, Field(ge=1)] = SHARD_SAMPLES
    """Samples in a shard; a song's segments stay together."""
    threads_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPU threads of each network: another number may change the last bits of what it makes."""

    @classmethod
    def check_file(cls, values: dict[str, Any]) -> None:
        """Raises ValueError for a file that names a program to start: files come with data."""
        if isinstance(section := values.get("separator"), dict) and "command" in section:
            raise ValueError("separator.command is taken from the command line only: use --set separator.command=...")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for field, names in (("targets", self.targets), ("ssl", self.ssl)):
            if len(set(names)) < len(names):
                raise ValueError(f"{field} names {names[0]} twice; leave one out")
        return self


def load_prep_config(
    source: str,
    settings: Sequence[str],
    *,
    separator: str | None = None,
    targets: str | None = None,
    ssl: str | None = None,
) -> PrepConfig:
    """`source` with `settings` and the flags that have their own names. Raises UserError for a bad value."""
    flags = [] if separator is None else [f"separator.name={json.dumps(separator)}"]
    flags += [] if targets is None else [f"targets={json.dumps(targets.split(','))}"]
    flags += [] if ssl is None else [f"ssl={json.dumps(ssl.split(','))}"]
    return load_config(PrepConfig, source, [*settings, *flags])

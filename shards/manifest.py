"""The manifest: what is in all shards of a folder, and what decided their bytes."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.bases import BaseOrigin, BaseSpec, check_statistics, recorded_spec
from common.canonical import sha256_of
from common.config import Config
from common.latents import LatentStatistics
from common.music.lead_sheet import LeadSheet
from common.music.notation import write_lead_sheet
from shards.fingerprint import Fingerprint
from shards.schema import Source, Target

MANIFEST_FILE = "manifest.json"
SHARD_NAME = r"^shard-[0-9]{6}\.tar$"
ENGLISH = "en"
"""Language of lyrics where nothing says another."""


class SegmentEntry(Config):
    """A sample in the manifest."""

    key: str
    song: str
    frames: int
    seconds: float
    vocal_lufs: float | None
    """Loudness of its vocal as encoded; null where nobody sings."""
    sha256: str
    """Over the contents of its members, one after the other in the order of the tar."""


class SongEntry(Config):
    """A song in the manifest, so that a later build knows what it need not make again."""

    key: str
    name: str
    audio_sha256: str
    """Over the content of its audio files."""
    text_sha256: str
    """Over its prompt, its lyrics and the lead sheet that was given for it."""
    sound_sha256: str | None
    """As in its samples."""
    notes: tuple[str, ...] = ()
    """What was found of its files, and mended, a sentence each."""
    lead_sheet: bool = Field(default=False, exclude_if=lambda there: not there)
    """Whether its samples hold a lead sheet."""
    vocal_features: bool = Field(default=False, exclude_if=lambda there: not there)
    """Whether its samples hold features of the vocal."""
    parent: str | None = Field(default=None, exclude_if=lambda parent: parent is None)
    """Key of the song that this one is at another pitch."""
    semitones: int = Field(default=0, exclude_if=lambda semitones: semitones == 0)
    """So much higher than its files."""

    @property
    def family(self) -> str:
        """Key that it shares with its parent and with all that was made of that."""
        return self.parent or self.key


def audio_identity(sources: Iterable[Source], semitones: int = 0) -> str:
    """Hash over what a song's audio files hold, whatever they are called, and how much higher it is than they."""
    hashes: dict[str, list[str]] = {}
    for source in sources:
        hashes.setdefault(source.part, []).append(source.sha256)
    held = sha256_of({part: found[0] if len(found) == 1 else sorted(found) for part, found in hashes.items()})
    return sha256_of([held, semitones]) if semitones else held


def lead_sheet_identity(sheet: LeadSheet | None) -> str | None:
    """Hash over what a lead sheet says, however it is written; None without one."""
    return None if sheet is None else sha256_of(write_lead_sheet(sheet))


def text_identity(prompt: str, lyrics: str, lead_sheet_sha256: str | None = None) -> str:
    """Hash over a song's texts, its lead sheet by its `lead_sheet_identity`."""
    return sha256_of([prompt, lyrics] if lead_sheet_sha256 is None else [prompt, lyrics, lead_sheet_sha256])


class VocalMoments(Config):
    """Sums over a shard's sung frames and all rows, from which the latent statistics come; z' = z - silence."""

    frames: int
    """Sung frames."""
    sums: tuple[float, ...]
    """Sum of z' over rows and sung frames, [C]."""
    square_sums: tuple[float, ...]
    """Sum of the squares of z', [C]."""


class ShardEntry(Config):
    """A tar in the manifest."""

    name: Annotated[str, Field(pattern=SHARD_NAME)]
    samples: int
    frames: int
    bytes: int
    sha256: str
    segments: tuple[SegmentEntry, ...]
    songs: tuple[SongEntry, ...]
    vocal: VocalMoments | None = None


class Totals(Config):
    """Sums over all shards."""

    songs: int
    segments: int
    frames: int
    seconds: float
    bytes: int


def totals_of(shards: Sequence[ShardEntry]) -> Totals:
    """Sums over shards."""
    return Totals(
        songs=sum(len(shard.songs) for shard in shards),
        segments=sum(shard.samples for shard in shards),
        frames=sum(shard.frames for shard in shards),
        seconds=sum(segment.seconds for shard in shards for segment in shard.segments),
        bytes=sum(shard.bytes for shard in shards),
    )


class Manifest(Config):
    """manifest.json: all that a reader needs to know before it opens a tar."""

    format: Literal["backline-shards"] = "backline-shards"
    version: Literal[1, 2] = 1
    """2 where a reader that knows ACE-Step v1 alone would be wrong."""
    shards: tuple[ShardEntry, ...]
    fingerprint: Fingerprint
    base: BaseOrigin | None = None
    """The base model whose codec and text encoder made them; null in shards that do not say."""
    totals: Totals
    targets: tuple[Target, ...]
    """Which of inst and mix every sample holds; none in shards made for inference."""
    vocal_lufs: float | None
    """Median loudness of the vocals as encoded: a vocal is brought to it before inference."""
    statistics: LatentStatistics | None
    """Constants that normalise a vocal latent; null in shards made for inference."""

    @model_validator(mode="after")
    def _of_its_base(self) -> Self:
        if self.version != self.spec.shards_version:
            raise ValueError(f"version {self.version} does not go with latents of {self.spec.name}")
        check_statistics(self.statistics, self.spec)
        channels = self.spec.latents.channels
        for vocal in (shard.vocal for shard in self.shards if shard.vocal is not None):
            if {len(vocal.sums), len(vocal.square_sums)} != {channels}:
                raise ValueError(f"a shard's sums are not of {channels} channels")
        return self

    @property
    def spec(self) -> BaseSpec:
        """The base model whose latents these are; ACE-Step v1 where shards do not say."""
        return recorded_spec(self.base)

    @property
    def lyrics_language(self) -> str:
        """Language that lyrics were read in: the setting in the fingerprint, English where it has none."""
        text = self.fingerprint.settings.get("text")
        found = text.get("lyrics_language") if isinstance(text, dict) else None
        return found if isinstance(found, str) else ENGLISH

    def songs(self) -> dict[str, SongEntry]:
        """Every song by its key."""
        return {song.key: song for shard in self.shards for song in shard.songs}

    def families(self) -> int:
        """How many songs there are, one and what was made of it at other pitches being one."""
        return len({song.family for song in self.songs().values()})

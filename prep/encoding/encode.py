"""One song's sound into latents: decode, align or separate, cut, level, encode. No text here.

What is as long as a song lies on the disk; of segments, one is in memory at a time.
N samples at the codec's rate, stereo [2, N]; C latent channels, H latent rows, T latent frames.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from common.audio.decode import audio_stream
from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from common.audio.wave import resample_blocks, stereo_blocks_at, vocal_activity
from common.errors import UserError
from common.latents import LatentLayout
from common.music.vocal_features import vocal_features
from models.loading.checkpoint import open_codec
from models.protocols import LatentCodec
from prep.config import EncodeConfig, PrepConfig
from prep.encoding.gate import bleed_db, gate_levels, gate_opening, gated
from prep.encoding.separated import SongSeparator
from prep.encoding.shift import levelled_config, shifted_tracks
from prep.sources.align import align, check_lengths
from prep.sources.channels import DecodedFile, decoded_file
from prep.sources.scan import SongFiles
from prep.sources.segment import PARTS, Level, SampleSpan, level, measure, mix_levels, spans
from prep.sources.sound import SoundHash
from prep.sources.tracks import SongTracks
from shards.rejection import SongError
from shards.schema import VOCAL_FEATURES, Part, SegmentAudio

if TYPE_CHECKING:  # it imports transformers, which few builds need
    from prep.encoding.ssl import SslEncoder

SILENCE_SECONDS = 10
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class NewWave(Protocol):
    """Makes an empty wave: at the codec's rate, unless another is asked for."""

    def __call__(self, rate_hz: int = ..., /) -> DiskWave: ...


@dataclass(frozen=True)
class EncodedSegment:
    """The sound of one segment as a sample holds it."""

    audio: SegmentAudio
    arrays: Mapping[str, np.ndarray]
    """The vocal, its activity, targets and features, under the names that a sample has for them."""


@dataclass(frozen=True)
class PlannedSegment:
    """A segment that is cut and measured but not encoded."""

    span: SampleSpan
    level: Level
    activity: np.ndarray


@dataclass(frozen=True)
class PreparedSong:
    """A song of which only the latents are missing."""

    tracks: SongTracks
    segments: tuple[PlannedSegment, ...]
    sound_sha256: str
    """Hash over the samples of its files."""


class SongEncoder:
    """The networks that a song's sound goes through; without a separator, full songs are rejected."""

    def __init__(
        self,
        config: PrepConfig,
        codec: LatentCodec,
        separator: SongSeparator | None,
        *,
        ssl: Sequence["SslEncoder"] = (),
    ) -> None:
        self._config, self._codec, self._separator, self._ssl = config, codec, separator, ssl

    @property
    def _rate_hz(self) -> int:
        return self._codec.layout.sample_rate_hz

    @contextmanager
    def prepare(
        self, song: SongFiles, scratch: Path | None = None, vocal_identity: str | None = None
    ) -> Generator[PreparedSong]:
        """A song up to its encoding; its waves lie in `scratch` while the block runs, and its files are read no more.

        The vocal of a full song is kept under `vocal_identity`. Raises SongError where the song cannot be used.
        """
        with ExitStack() as waves:
            sound = SoundHash(song)

            def new_wave(rate_hz: int = self._rate_hz) -> DiskWave:
                return waves.enter_context(DiskWave(rate_hz, scratch))

            tracks = self.tracks(song, new_wave, sound, vocal_identity)
            if song.semitones:
                tracks = shifted_tracks(tracks, song.semitones, new_wave)
            planned = tuple(plan_segments(tracks, self._codec.layout, levelled_config(self._config, song)))
            _check_sung(planned, self._config.min_vocal_activity)
            yield PreparedSong(tracks, planned, sound.hexdigest())

    def encode(self, song: PreparedSong, number: int) -> EncodedSegment:
        """A segment through the codec; the same whichever were encoded before it."""
        tracks, planned = song.tracks, song.segments[number]
        arrays = {"activity": planned.activity.astype(np.float16)}
        for part in ("vocal", *self._config.targets):
            arrays |= self._encode(part, _levelled(tracks, part, planned.span, planned.level))
        if self._config.vocal_features:
            arrays |= self.vocal_features(song, number).arrays
        return EncodedSegment(_segment_audio(tracks, planned, self._codec.layout), arrays)

    def vocal_features(self, song: PreparedSong, number: int) -> EncodedSegment:
        """A segment with the features of its vocal and nothing else."""
        tracks, planned = song.tracks, song.segments[number]
        features = vocal_features(_levelled(tracks, "vocal", planned.span, planned.level), self._rate_hz)
        return EncodedSegment(_segment_audio(tracks, planned, self._codec.layout), {VOCAL_FEATURES: features.packed()})

    def tracks(
        self, song: SongFiles, new_wave: NewWave, sound: SoundHash, vocal_identity: str | None = None
    ) -> SongTracks:
        """A song's parts, given or separated, at full length. Raises SongError where they cannot be had."""
        if not song.is_full:
            files = {part: self._part(song, part, new_wave, sound) for part in song.files}
            tracks = align({part: each.wave for part, each in files.items()}, self._config.stems, new_wave)
            return replace(tracks, notes=(*(note for each in files.values() for note in each.notes), *tracks.notes))
        if self._separator is None:
            only = song.files["mix"].name
            raise SongError("no_separator", f"{only}: a full song, but separator.name is none. Add its stems.")
        file = self._decoded("mix", song.files["mix"], new_wave, sound)
        mix, config = file.wave, self._config
        spans(_levels(mix.blocks()), mix.samples, self._codec.layout, config.trim, config.segment)  # else why separate
        vocal = self._separated(song, mix, new_wave, vocal_identity)
        tracks = SongTracks({"vocal": vocal, "mix": mix}, mix.samples, "inst", separator=self._separator.name)
        return self._gated(replace(tracks, notes=file.notes), new_wave)

    def _separated(self, song: SongFiles, mix: DiskWave, new_wave: NewWave, identity: str | None) -> DiskWave:
        """The vocal of a full song, at the mix's rate and of its length."""

        def mix_at(rate_hz: int) -> DiskWave:
            if rate_hz == mix.rate_hz:
                return mix
            at_rate, blocks = partial(new_wave, rate_hz), decoded(song.files["mix"], rate_hz)
            return decoded_file("mix", blocks, self._config.silent_channel, at_rate).wave

        assert self._separator is not None
        vocal = self._separator.vocal(identity, mix.samples / mix.rate_hz, mix_at, new_wave)
        if vocal.rate_hz == mix.rate_hz:
            return vocal
        with vocal:  # it is read no more afterwards
            return new_wave().extend(_first(resample_blocks(vocal.blocks(), vocal.rate_hz, mix.rate_hz), mix.samples))

    def _part(self, song: SongFiles, part: Part, new_wave: NewWave, sound: SoundHash) -> DecodedFile:
        """A given part, of one file or the sum of several."""
        if part != "inst" or not song.added:
            return self._decoded(part, song.files[part], new_wave, sound)
        with ExitStack() as stems:
            waves = [
                stems.enter_context(new_wave().extend(decoded(path, self._rate_hz, sound)))
                for path in (song.files[part], *song.added)
            ]
            return decoded_file(part, summed(waves), self._config.silent_channel, new_wave)

    def _decoded(self, part: Part, path: Path, new_wave: Callable[[], DiskWave], sound: SoundHash) -> DecodedFile:
        return decoded_file(part, decoded(path, self._rate_hz, sound), self._config.silent_channel, new_wave)

    def _gated(self, tracks: SongTracks, new_wave: Callable[[], DiskWave]) -> SongTracks:
        gate_db = self._config.separator.gate_db
        if gate_db is None:
            return tracks
        with tracks.waves["vocal"] as vocal:  # it is read no more afterwards
            levels, mix_levels = (gate_levels(tracks.waves[part]) for part in ("vocal", "mix"))
            opening = gate_opening(levels, gate_db)
            waves = {**tracks.waves, "vocal": new_wave().extend(gated(vocal, opening))}
        return replace(tracks, waves=waves, bleed_db=bleed_db(levels, mix_levels, opening))

    def _encode(self, part: Part, wave: np.ndarray) -> dict[str, np.ndarray]:
        """What a sample holds of one part, by field."""
        longest = self._config.encode.piece_frames(self._codec.layout)
        latents = {str(part): encode_wave(self._codec, wave, longest=longest)}
        if part == "vocal":
            return latents
        return latents | {f"{part}_{ssl.name}": ssl.encode(wave, self._rate_hz) for ssl in self._ssl}


def decoded(path: Path, rate_hz: int, sound: SoundHash | None = None) -> Iterator[np.ndarray]:
    """A file in blocks [2, n] at `rate_hz`, hashed by `sound` in passing. Raises SongError where it cannot be read."""
    try:
        with audio_stream(path) as stream:
            yield from stereo_blocks_at(stream if sound is None else sound.hashed(path, stream), rate_hz)
    except UserError as error:
        raise SongError("unreadable", str(error)) from None


def _first(blocks: Iterable[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """So many samples of a clip in blocks [2, n]."""
    for block in blocks:
        yield block[:, :samples]
        samples -= min(samples, block.shape[1])


def summed(waves: Sequence[DiskWave]) -> Iterator[np.ndarray]:
    """The sum of stems in blocks [2, n], to the end of the shortest. Raises SongError for lengths too far apart."""
    check_lengths(waves)
    shortest = min(wave.samples for wave in waves)
    for start in range(0, shortest, BLOCK_SAMPLES):
        first, *rest = (wave.read(start, min(start + BLOCK_SAMPLES, shortest)) for wave in waves)
        for block in rest:
            first += block
        yield first


def plan_segments(tracks: SongTracks, latents: LatentLayout, config: PrepConfig) -> Iterator[PlannedSegment]:
    """The segments that can be heard, with their gains. Raises SongError where there are none."""
    levels = _levels(tracks.part("mix", block) for block in tracks.blocks())
    audible = 0
    for span in spans(levels, tracks.samples, latents, config.trim, config.segment):
        found = level({part: measure(tracks.part(part, span), tracks.rate_hz) for part in PARTS}, config.loudness)
        if found is not None:
            audible += 1
            yield PlannedSegment(span, found, vocal_activity(_levelled(tracks, "vocal", span, found), latents))
    if not audible:
        raise SongError("silent", "every block of its mix lies under the gate of BS.1770 (-70 LUFS).")


def _levelled(tracks: SongTracks, part: Part, span: SampleSpan, found: Level) -> np.ndarray:
    wave = tracks.part(part, span)
    return np.multiply(wave, found.gain.factor, out=wave)


def _levels(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """`mix_levels` of a wave in blocks, each but the last a whole number of levels."""
    return np.concatenate([mix_levels(block) for block in blocks])


def _check_sung(planned: Sequence[PlannedSegment], least: float) -> None:
    share = float(np.mean(np.concatenate([segment.activity for segment in planned])))
    if share < least:
        raise SongError("no_vocal", f"sung for {share:.1%} of its time, under min_vocal_activity ({least:.1%}).")


def open_encoder(folder: Path, config: EncodeConfig, device: str) -> LatentCodec:
    """A checkpoint's codec, encoder only. Raises UserError where the device cannot compute at that precision."""
    codec = open_codec(folder, encoder=True, decoder=False).to(device, PRECISIONS[config.precision])
    if config.precision != "fp32":
        try:
            encode_wave(codec, np.zeros((2, codec.layout.frame_samples), dtype=np.float32))
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            named = f"encode.precision {config.precision}"
            raise UserError(f"{named}: cannot be used on {device} ({reason}). Use fp32, or another --device.") from None
    return codec


@torch.inference_mode()
def encode_wave(codec: LatentCodec, wave: np.ndarray, *, longest: int | None = None) -> np.ndarray:
    """Scaled latents of [2, N] as shards hold them, float16 [C, H, T], made of `longest` frames at a time."""
    device = next(codec.parameters()).device
    latents = codec.encode(torch.from_numpy(wave).to(device), longest=longest)
    return latents.to("cpu", torch.float16).contiguous().numpy()


def silence_latent(codec: LatentCodec) -> np.ndarray:
    """z_silence, float32 [C, H]: the median over frames of encoded digital silence."""
    wave = np.zeros((2, SILENCE_SECONDS * codec.layout.sample_rate_hz), dtype=np.float32)
    return np.median(encode_wave(codec, wave).astype(np.float32), axis=-1)


def _segment_audio(tracks: SongTracks, planned: PlannedSegment, latents: LatentLayout) -> SegmentAudio:
    samples = planned.span.end - planned.span.start
    return SegmentAudio(
        start_seconds=planned.span.start / latents.sample_rate_hz,
        samples=samples,
        seconds=samples / latents.sample_rate_hz,
        frames=latents.frames_of(samples),
        lufs=planned.level.lufs,
        gain_db=planned.level.gain.db,
        peak_limited=planned.level.gain.peak_limited,
        separator=tracks.separator,
        derived=tracks.derived,
        residual_db=tracks.residual_db,
        bleed_db=tracks.bleed_db,
        leak_db=tracks.leak_db,
        stems=tracks.notes,
    )

"""Audio files in and out, and the measures that prep and infer must take alike: loudness, peak, vocal activity.

Samples are float32 arrays [c, N]: c channels, N samples; full scale is 1. T latent frames.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.signal
import soundfile
import torch
import torchaudio.functional

from common.audio.decode import AudioStream, audio_stream
from common.audio.loudness import LOUDNESS_BLOCK_SECONDS, integrated_lufs
from common.errors import UserError
from common.files import whole_file
from common.latents import LatentLayout

PEAK_CEILING_DBFS = -1.0
"""No levelled part goes above this peak."""
SILENT_DBFS, SUNG_DBFS = -50.0, -40.0
"""Level of a frame, after levelling, where vocal activity leaves 0 and reaches 1."""

MEASURED_SAMPLES = 1 << 15
"""Samples of a clip that are measured at once, few enough for a core's own cache in double precision."""
RESAMPLING_REACH = 16
"""A resampled sample depends on so many on either side of its moment, counted at the lower of the two rates."""
RESAMPLED_SAMPLES = 1 << 17
"""Samples that are resampled at once, but for what makes a whole period."""
TABLED_PERIODS = 2000
"""Longer periods (of a rate like 44101 Hz) would make torchaudio's table of filters take gigabytes."""

_CENTRE = math.sqrt(0.5)
_SPEAKERS = {"L": (1.0, 0.0), "R": (0.0, 1.0), "C": (_CENTRE, _CENTRE), "LFE": (0.0, 0.0), "l": (_CENTRE, 0.0)}
_SPEAKERS["r"] = (0.0, _CENTRE)  # l, r: the speakers behind and beside
_LAYOUTS = {3: "L R C", 4: "L R l r", 5: "L R C l r", 6: "L R C LFE l r", 8: "L R C LFE l r l r"}
"""Channel order of WAV, FLAC and what ffmpeg gives."""


@dataclass(frozen=True)
class Audio:
    """A decoded clip: samples float32 [c, N] at rate_hz."""

    samples: np.ndarray
    rate_hz: int

    @property
    def seconds(self) -> float:
        return self.samples.shape[-1] / self.rate_hz


def read_audio(path: Path) -> Audio:
    """Decode a whole file, whatever its rate and channels.

    Raises UserError for a file that is missing, empty, damaged, cut short, not audio, or holds NaN or infinity.
    """
    with audio_stream(path) as stream:
        blocks = list(stream.blocks)
    return Audio(np.concatenate(blocks, axis=1), stream.rate_hz)


Subtype = Literal["PCM_16", "PCM_24", "FLOAT"]
SYSTEM_ERROR = 2
"""libsndfile's number for whatever the system said no to."""
DISK_REFUSES = "the disk refuses, or is full"
HEADER_BYTES, PEAK_TIME = 256, 12
"""Of a WAV file, and where the time stands in its PEAK chunk: after its name, length and version."""


def write_audio(path: Path, samples: np.ndarray, rate_hz: int, *, subtype: Subtype = "PCM_24") -> None:
    """Write samples [c, N] to a .wav or .flac file that appears whole or not at all.

    Integers are rounded to the grid that reading gives back (1/32768 or 1/8388608), and clipped to full scale.
    Raises UserError for another suffix, and where the disk refuses.
    """
    write_audio_blocks(path, [samples], rate_hz, channels=samples.shape[0], subtype=subtype)


def write_audio_blocks(
    path: Path, blocks: Iterable[np.ndarray], rate_hz: int, *, channels: int = 2, subtype: Subtype = "PCM_24"
) -> None:
    """`write_audio` of a clip that comes in blocks [c, n]. Raises UserError as it does."""
    kind = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: audio is written as .wav or .flac, not {path.suffix or 'a name without suffix'}.")
    frames = 0
    with whole_file(path) as partial:
        try:
            with soundfile.SoundFile(partial, "w", rate_hz, channels, subtype, format=kind) as file:
                for block in blocks:
                    assert np.isfinite(block).all(), f"{path}: NaN or infinity would be written"
                    file.write(_on_grid(block, subtype).T)
                    frames += block.shape[1]
        except soundfile.LibsndfileError as error:
            if error.code != SYSTEM_ERROR:
                raise
            raise OSError(DISK_REFUSES) from error
        if frames and not _holds(partial, frames):
            raise OSError(DISK_REFUSES)
        if (kind, subtype) == ("WAV", "FLOAT"):
            _forget_time(partial)


def _holds(path: Path, frames: int) -> bool:
    """Whether a file's last frame can be read: libsndfile says nothing of a disk that is full as it closes a FLAC."""
    try:
        with soundfile.SoundFile(path) as file:
            return file.seek(frames - 1) == frames - 1 and len(file.read()) == 1
    except soundfile.LibsndfileError:
        return False


def _forget_time(path: Path) -> None:
    """Zero the time of writing, which libsndfile puts into the PEAK chunk of WAV files of floats."""
    with path.open("r+b") as file:
        header = file.read(HEADER_BYTES)
        file.seek(header.index(b"PEAK") + PEAK_TIME)
        file.write(bytes(4))


def _on_grid(samples: np.ndarray, subtype: str) -> np.ndarray:
    """Left-justified integers as libsndfile stores them (its own conversion from float is off by one part in 2^15)."""
    if subtype == "FLOAT":
        return np.asarray(samples, dtype=np.float32)
    bits = {"PCM_16": 16, "PCM_24": 24}[subtype]
    steps = np.clip(np.rint(samples.astype(np.float64) * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return steps.astype(np.int32) << (32 - bits)


def to_stereo(samples: np.ndarray) -> np.ndarray:
    """[c, N] as [2, N]: mono doubled, surround folded down (rear and centre at -3 dB, no LFE), else the mean twice.

    A fold-down is scaled so that no channel can exceed full scale.
    """
    channels = samples.shape[0]
    if channels == 2:
        return samples
    if channels not in _LAYOUTS:
        return np.repeat(samples.mean(axis=0, keepdims=True), 2, axis=0)
    weights = np.array([_SPEAKERS[name] for name in _LAYOUTS[channels].split()], dtype=np.float32)
    shares = (weights / weights.sum(axis=0))[..., None]
    folded = np.zeros((2, samples.shape[1]), dtype=np.float32)
    for share, channel in zip(shares, samples, strict=True):  # a matrix product may round by the length of the clip
        folded += share * channel
    return folded


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """[c, N] at from_hz as [c, ceil(N * to_hz / from_hz)] at to_hz, the way the codec's authors do (reference 5.2)."""
    return np.concatenate([samples[:, :0], *resample_blocks([samples], from_hz, to_hz)], axis=1)


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """`resample` of a clip that comes in blocks [c, n]: the same bits, however it is cut.

    Pieces of one size go through the filter, with whole periods of the two rates as context on either side.
    """
    if from_hz == to_hz:
        yield from blocks
        return
    old, new = (rate_hz // math.gcd(from_hz, to_hz) for rate_hz in (from_hz, to_hz))
    context = old * math.ceil(RESAMPLING_REACH * max(1.0, old / new) / old)
    step = old * math.ceil(RESAMPLED_SAMPLES / old)
    kept = slice(context // old * new, (context + step) // old * new)
    waiting, due = np.zeros((0, 0), dtype=np.float32), 0
    for block in blocks:
        due += block.shape[1]
        waiting = np.concatenate([waiting if waiting.size else np.zeros((len(block), context)), block], axis=1)
        while waiting.shape[1] >= step + 2 * context:
            yield _resample_piece(waiting[:, : step + 2 * context], old, new)[:, kept]
            waiting = waiting[:, step:]
            due -= step
    while due > 0:
        piece = np.pad(waiting[:, : step + 2 * context], ((0, 0), (0, max(step + 2 * context - waiting.shape[1], 0))))
        yield _resample_piece(piece, old, new)[:, kept][:, : math.ceil(due * new / old)]
        waiting = waiting[:, step:]
        due -= step


def _resample_piece(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    if old > TABLED_PERIODS:
        return scipy.signal.resample_poly(samples, new, old, axis=1).astype(np.float32)
    return torchaudio.functional.resample(torch.from_numpy(samples.astype(np.float32)), old, new).numpy()


def stereo_at(audio: Audio, rate_hz: int) -> np.ndarray:
    """The clip as a codec takes it: stereo [2, N] at `rate_hz`."""
    return resample(to_stereo(audio.samples), audio.rate_hz, rate_hz)


def stereo_blocks_at(stream: AudioStream, rate_hz: int) -> Iterator[np.ndarray]:
    """`stereo_at` of a file that is being decoded, in blocks [2, n]."""
    return resample_blocks(map(to_stereo, stream.blocks), stream.rate_hz, rate_hz)


def decibels(amplitude: float) -> float:
    """20 log10 of an amplitude; -inf for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


def peak_dbfs(samples: np.ndarray) -> float:
    """Highest sample in dB below full scale; -inf for silence."""
    return decibels(max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0))))


def loudness_lufs(samples: np.ndarray, rate_hz: int, *, offset: np.ndarray | None = None) -> float:
    """Integrated loudness by BS.1770-4 of [c, N]; -inf where every block lies under its gate of -70 LUFS.

    `offset` [c, 1] is taken off the samples first. Raises UserError for a clip shorter than one block.
    """
    check_loudness_length(samples.shape[-1], rate_hz)
    blocks = _measured_blocks(samples, MEASURED_SAMPLES)
    centred = blocks if offset is None else (block - offset for block in blocks)
    return integrated_lufs(centred, rate_hz, samples=samples.shape[-1])


def check_loudness_length(samples: int, rate_hz: int) -> None:
    """Raises UserError for a clip shorter than one loudness block."""
    seconds = samples / rate_hz
    if seconds < LOUDNESS_BLOCK_SECONDS:
        raise UserError(f"{seconds:.2f} s is shorter than one loudness block ({LOUDNESS_BLOCK_SECONDS:g} s).")


def _measured_blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[:, start : start + size] for start in range(0, samples.shape[-1], size))


def frame_levels(samples: np.ndarray, *, frame_samples: int) -> np.ndarray:
    """RMS in dBFS over all channels of each frame, float64 [ceil(N / frame_samples)]; the last one counts zeros too."""
    size = frame_samples * math.ceil(MEASURED_SAMPLES / frame_samples)
    powers = [_frame_powers(block, frame_samples) for block in _measured_blocks(samples, size)]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(np.concatenate([np.zeros(0), *powers]))


def _frame_powers(samples: np.ndarray, frame_samples: int) -> np.ndarray:
    power = np.mean(np.square(samples, dtype=np.float64), axis=0)
    return np.pad(power, (0, -power.size % frame_samples)).reshape(-1, frame_samples).mean(axis=1)


def vocal_activity(vocal: np.ndarray, latents: LatentLayout) -> np.ndarray:
    """How much each latent frame is sung, float32 [T] in [0, 1], of a levelled vocal [2, N] at the codec's rate.

    0 at or below -50 dBFS RMS, 1 at or above -40, linear in dB between.
    """
    activity = (frame_levels(vocal, frame_samples=latents.frame_samples) - SILENT_DBFS) / (SUNG_DBFS - SILENT_DBFS)
    return np.clip(activity, 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class LevelGain:
    """One gain for all parts of a segment."""

    db: float
    peak_limited: bool
    """True where the loudest peak, not the loudness, set it."""

    @property
    def factor(self) -> np.float32:
        return np.float32(10 ** (self.db / 20))


def gain_to(target_lufs: float, *, lufs: float, peak: float, ceiling_dbfs: float = PEAK_CEILING_DBFS) -> LevelGain:
    """The gain that brings `lufs` to `target_lufs`, lowered where a part's `peak` (dBFS) would pass the ceiling."""
    wanted, allowed = target_lufs - lufs, ceiling_dbfs - peak
    return LevelGain(min(wanted, allowed), peak_limited=allowed < wanted)


def vocal_gain(
    blocks: Callable[[], Iterable[np.ndarray]], rate_hz: int, target_lufs: float, *, samples: int
) -> LevelGain:
    """The gain that brings a vocal alone to the loudness that vocals had in training (vocal_lufs).

    `blocks()` gives its N = `samples` in blocks [c, n], each time that it is asked.
    Raises UserError for a vocal that is silent or shorter than one loudness block.
    """
    check_loudness_length(samples, rate_hz)
    lufs, peak = integrated_lufs(blocks(), rate_hz, samples=samples), max(map(peak_dbfs, blocks()))
    if math.isinf(lufs):
        raise UserError(f"this vocal is silent (peak {peak:.1f} dBFS). Give one that can be heard.")
    return gain_to(target_lufs, lufs=lufs, peak=peak)

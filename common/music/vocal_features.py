"""Features of a sung vocal: pitch with confidence, chroma, onsets, level. No torch.

F frames, FEATURE_RATE_HZ a second whatever the base model, frame f centred at f / FEATURE_RATE_HZ seconds. Pitches are
MIDI numbers (69 is 440 Hz) with fractions. The pitch is that of SWIPE' (Camacho and Harris 2008): the candidate whose
comb of prime harmonics correlates best with the square root of the spectrum, here with one window for all pitches.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal

FEATURE_RATE_HZ = 50
ANALYSIS_RATE_HZ = 16_000
HOP_SAMPLES = ANALYSIS_RATE_HZ // FEATURE_RATE_HZ
PITCH_WINDOW, ONSET_WINDOW, FFT_SIZE = 1536, 640, 4096
LOWEST_MIDI, HIGHEST_MIDI = 38, 86
"""D2 to D6: what people sing."""
STEPS_PER_SEMITONE = 5
PRIME_HARMONICS = (1, 2, 3, 5, 7, 11, 13)
BINS_PER_SEMITONE = 4
"""Of the spectrum that the combs are laid over."""
TOP_HZ = 5000.0
VOICED_STRENGTH = (0.25, 0.45)
"""Strength of the comb where the confidence leaves 0, as in white noise, and where it reaches 1."""
SOUNDING_RANGE_DB = (45.0, 25.0)
"""How far below the loud frames of the clip a frame counts as silent, and as sounding."""
SILENT_DBFS = -65.0
"""A clip whose loud frames lie below this is silent."""
LEAST_SUNG_SECONDS = 0.25
MIDDLE_MIDI = 60
"""From which packed pitches are counted: float16 has steps of 1/64 semitone or finer there."""
PACKED_ROWS = 6
ONSET_BANDS_HZ = ((60.0, 500.0), (500.0, 2500.0), (2500.0, 7500.0))
"""Voice, vowels, consonants."""
JUMP_FRAMES = 3
"""The pitch is compared with that so many frames before and after."""


@dataclass(frozen=True)
class VocalFeatures:
    """What is sung in each frame."""

    midi: np.ndarray
    """Pitch of each frame, float32 [F]; meaningless where confidence is 0."""
    confidence: np.ndarray
    """How surely that pitch is sung, 0 to 1, float32 [F]."""
    level: np.ndarray
    """How loud a frame is beside the loud ones of the clip: 0 silent, 1 loud, float32 [F]."""
    onsets: np.ndarray
    """Rise of the log spectrum in each of ONSET_BANDS_HZ, 1 being large, float32 [3, F]."""
    tuning: float
    """Semitones, within half of one, by which the singer is sharp of 440 Hz."""

    @property
    def frames(self) -> int:
        return len(self.midi)

    def packed(self) -> np.ndarray:
        """All of it, as shards hold it: float16 [PACKED_ROWS, F].

        Rows are the pitch above MIDDLE_MIDI after the singer's own tuning, confidence, level, and the three onsets.
        """
        rows = [self.midi - self.tuning - MIDDLE_MIDI, self.confidence, self.level, *self.onsets]
        return np.stack(rows).astype(np.float16)

    @classmethod
    def unpacked(cls, packed: np.ndarray) -> Self:
        """What was `packed`, of a singer who is in tune with 440 Hz."""
        pitch, confidence, level, *onsets = packed.astype(np.float32)
        return cls(pitch + MIDDLE_MIDI, confidence, level, np.stack(onsets), tuning=0.0)

    @property
    def sung(self) -> bool:
        """Whether a pitch is, surely and for LEAST_SUNG_SECONDS in all."""
        return bool(np.sum(self.confidence > 0.5) >= LEAST_SUNG_SECONDS * FEATURE_RATE_HZ)

    @property
    def chroma(self) -> np.ndarray:
        """Confidence, parted between the two pitch classes nearest to the pitch, C first: float32 [12, F]."""
        place = self.midi - self.tuning
        distance = np.abs((place[None] - np.arange(12)[:, None] + 6.0) % 12.0 - 6.0)
        return (np.clip(1.0 - distance, 0.0, 1.0) * self.confidence).astype(np.float32)

    @property
    def jumps(self) -> np.ndarray:
        """How far the pitch moves around a frame, in semitones up to 2, weighted by confidence: [F]."""
        midi = np.pad(self.midi, JUMP_FRAMES, mode="edge")
        confidence = np.pad(self.confidence, JUMP_FRAMES)
        sure = np.minimum(confidence[: -2 * JUMP_FRAMES], confidence[2 * JUMP_FRAMES :])
        return np.clip(np.abs(midi[2 * JUMP_FRAMES :] - midi[: -2 * JUMP_FRAMES]), 0.0, 2.0) * sure


def feature_frames(samples: int, rate_hz: int) -> int:
    """F of a wave of N samples: 1 + N * FEATURE_RATE_HZ / rate_hz, to within one."""
    return 1 + -(-samples * ANALYSIS_RATE_HZ // rate_hz) // HOP_SAMPLES


def vocal_features(wave: np.ndarray, rate_hz: int) -> VocalFeatures:
    """Features of a wave [c, N] or [N], in `feature_frames` frames."""
    mono = np.asarray(wave, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    shared = math.gcd(rate_hz, ANALYSIS_RATE_HZ)
    mono = scipy.signal.resample_poly(mono, ANALYSIS_RATE_HZ // shared, rate_hz // shared)
    short = _spectrum(mono, ONSET_WINDOW)
    level, loud_dbfs = _levels(short)
    strengths = _strengths(_spectrum(mono, PITCH_WINDOW))
    midi, strength = _track(strengths)
    low, high = VOICED_STRENGTH
    confidence = np.clip((strength - low) / (high - low), 0.0, 1.0) * (level > 0)
    if loud_dbfs < SILENT_DBFS:
        confidence, level = np.zeros_like(confidence), np.zeros_like(level)
    return VocalFeatures(
        midi=midi.astype(np.float32),
        confidence=confidence.astype(np.float32),
        level=level.astype(np.float32),
        onsets=_onsets(short, loud_dbfs),
        tuning=_tuning(midi, confidence),
    )


def _spectrum(mono: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes of windows centred on the frames, a full-scale sine being 0.5: [FFT_SIZE / 2 + 1, F]."""
    padded = np.pad(mono, (window // 2, window))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, window)[::HOP_SAMPLES][: 1 + len(mono) // HOP_SAMPLES]
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    return np.abs(scipy.fft.rfft(pieces * taper, FFT_SIZE)).T / taper.sum()


def _levels(spectrum: np.ndarray) -> tuple[np.ndarray, float]:
    """Level of each frame as VocalFeatures has it, [F], and that of the loud frames, in dBFS."""
    dbfs = 10 * np.log10(np.sum(spectrum**2, axis=0) / (FFT_SIZE / ONSET_WINDOW) + 1e-12)
    loud = float(np.quantile(dbfs, 0.95))
    silent, sounding = SOUNDING_RANGE_DB
    return np.clip((dbfs - loud + silent) / (silent - sounding), 0.0, 1.0), loud


def _onsets(spectrum: np.ndarray, loud_dbfs: float) -> np.ndarray:
    """Half-wave rectified change of the log spectrum from frame to frame, mean over each band: float32 [3, F]."""
    hertz = np.fft.rfftfreq(FFT_SIZE, 1 / ANALYSIS_RATE_HZ)
    scale = 10 ** (max(loud_dbfs, SILENT_DBFS) / 20)
    compressed = np.log1p(300.0 * spectrum / scale)
    compressed = np.pad(compressed, ((0, 0), (1, 1)), mode="edge")
    rises = np.maximum(compressed[:, 2:] - compressed[:, :-2], 0.0)  # over two hops, as wide as the window
    bands = [rises[(hertz >= low) & (hertz < high)].mean(axis=0) for low, high in ONSET_BANDS_HZ]
    return np.stack(bands).astype(np.float32)


def _strengths(spectrum: np.ndarray) -> np.ndarray:
    """How well each candidate's comb fits each frame, 1 being perfect: [candidates, F]."""
    places, combs = _combs()
    hertz_per_bin = ANALYSIS_RATE_HZ / FFT_SIZE
    index = places / hertz_per_bin
    left = index.astype(int)
    share = (index - left)[:, None]
    loudness = np.sqrt(spectrum[left] * (1 - share) + spectrum[left + 1] * share)
    loudness /= np.linalg.norm(loudness, axis=0, keepdims=True) + 1e-6
    return combs @ loudness


@cache
def _combs() -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [P] that the spectrum is read at, and the combs of all candidates over them [candidates, P]."""
    low = 440.0 * 2 ** ((LOWEST_MIDI - 1 - 69) / 12)
    places = low * 2 ** (np.arange(int(12 * BINS_PER_SEMITONE * np.log2(TOP_HZ / low))) / (12 * BINS_PER_SEMITONE))
    pitches = 440.0 * 2 ** ((candidates() - 69) / 12)
    combs = np.zeros((len(pitches), len(places)))
    for comb, pitch in zip(combs, pitches, strict=True):
        ratio = places / pitch
        for harmonic in PRIME_HARMONICS:
            away = np.abs(ratio - harmonic)
            comb[away < 0.25] = np.cos(2 * np.pi * ratio[away < 0.25])
            between = (away >= 0.25) & (away < 0.75)
            comb[between] += np.cos(2 * np.pi * ratio[between]) / 2
    combs *= places**-0.25  # 1 / sqrt as published, less where the spectrum is low and its places dense
    norms = np.sqrt(np.sum(np.maximum(combs, 0) ** 2, axis=1, keepdims=True))
    return places, (combs / norms).astype(np.float32)


def candidates() -> np.ndarray:
    """Pitches that are looked for."""
    return np.arange(LOWEST_MIDI * STEPS_PER_SEMITONE, HIGHEST_MIDI * STEPS_PER_SEMITONE + 1) / STEPS_PER_SEMITONE


def _track(strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best candidate of each frame, refined by a parabola, and its strength; lone slips are mended by a median."""
    best = np.clip(strengths.argmax(axis=0), 1, len(strengths) - 2)
    frames = np.arange(strengths.shape[1])
    left, here, right = (strengths[best + step, frames] for step in (-1, 0, 1))
    bend = np.minimum(left - 2 * here + right, -1e-9)
    offset = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    midi = candidates()[best] + offset / STEPS_PER_SEMITONE
    return scipy.ndimage.median_filter(midi, size=5, mode="nearest"), here


def means_between(track: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Mean of a track [c, F] from each of m + 1 times to the next, 0 where no frame lies between them: [c, m]."""
    frames = np.clip(np.rint(seconds * FEATURE_RATE_HZ), 0, track.shape[1]).astype(int)
    sums = np.pad(np.cumsum(track, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    return (sums[:, frames[1:]] - sums[:, frames[:-1]]) / np.maximum(np.diff(frames), 1)


def _tuning(midi: np.ndarray, confidence: np.ndarray) -> float:
    """Mean of the fractions of the pitches around the circle, in semitones of -0.5 to 0.5."""
    return float(np.angle(np.sum(confidence * np.exp(2j * np.pi * midi)) + 1e-12) / (2 * np.pi))

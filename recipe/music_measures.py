"""Measures of a song: key, tempo, beats, chords, by librosa; and which instruments play, by a learnt classifier.

N samples at 44100 Hz, F mel frames, W windows of half a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import librosa
import mir_eval
import numpy as np
import torch

from common.bases import ACE_STEP_1
from common.music.chord import Key
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import estimate_key, find_chords
from models.acestep1.codec.mel import MEL_BANDS, log_mel
from prep.made_up.truth import SongTruth
from prep.made_up.world import INSTRUMENTS

LATENTS = ACE_STEP_1.latents

RATE_HZ, HOP_SAMPLES = 22_050, 512
TEMPO_TOLERANCE = 0.04
SOUNDS = (*INSTRUMENTS, "bass", "drums", "vocal")
"""What the classifier tells apart."""


@dataclass(frozen=True)
class MusicMeasures:
    """What librosa finds in one song."""

    key: str | None
    """Such as "F# minor"."""
    tempo_bpm: float
    beats: np.ndarray
    """Seconds."""
    chords: np.ndarray
    """Per window the best triad: root, plus 12 if minor. [W]"""


def measure_music(wave: np.ndarray) -> MusicMeasures:
    """Key, tempo, beats and chords of a wave [2, N]."""
    mono = librosa.resample(wave.mean(axis=0), orig_sr=LATENTS.sample_rate_hz, target_sr=RATE_HZ)
    chroma = librosa.feature.chroma_cqt(y=librosa.effects.harmonic(mono), sr=RATE_HZ, hop_length=HOP_SAMPLES)
    tempo, beats = librosa.beat.beat_track(y=mono, sr=RATE_HZ, hop_length=HOP_SAMPLES, units="time")
    return MusicMeasures(estimate_key(Clip(wave)), float(np.atleast_1d(tempo)[0]), beats, find_chords(chroma))


def signature(key: str | None) -> int | None:
    """Pitch class of the major key with the notes of a key such as "F# minor"."""
    return None if key is None else Key.of_name(key).signature


def same_tempo(one: float, other: float) -> bool:
    """Within 4 %, at any of half, equal and double speed."""
    return any(abs(one * times / other - 1) <= TEMPO_TOLERANCE for times in (0.5, 1, 2))


def beat_f(true: Sequence[float] | np.ndarray, found: np.ndarray) -> float:
    """F-measure of beats, 70 ms to either side."""
    return float(mir_eval.beat.f_measure(np.asarray(true), found))


@dataclass(frozen=True)
class InstrumentClassifier:
    """A linear classifier of SOUNDS, learnt by ridge regression on what a song's log-mel is like."""

    mean: np.ndarray  # of each feature
    deviation: np.ndarray
    weights: np.ndarray  # [features + 1, sounds]

    def sounds(self, wave: np.ndarray) -> np.ndarray:
        """Which of SOUNDS are in a wave [2, N]: bool [sounds]."""
        row = (features(wave) - self.mean) / self.deviation
        return np.append(row, 1.0) @ self.weights > 0


def fit_classifier(rows: np.ndarray, sounds: np.ndarray, *, ridge: float) -> InstrumentClassifier:
    """From the features [songs, features] of songs and what sounds in them, bool [songs, sounds]."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    inputs = np.column_stack([(rows - mean) / deviation, np.ones(len(rows))])
    square = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    return InstrumentClassifier(mean, deviation, np.linalg.solve(square, inputs.T @ (2.0 * sounds - 1)))


def features(wave: np.ndarray) -> np.ndarray:
    """Mean, spread and mean rise and fall of each mel band of a wave [2, N]."""
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(wave))).mean(dim=0).numpy()
    steps = np.abs(np.diff(mel, axis=1))
    rows = np.concatenate([mel.mean(axis=1), mel.std(axis=1), steps.mean(axis=1), np.quantile(mel, 0.9, axis=1)])
    assert len(rows) == 4 * MEL_BANDS
    return rows.astype(np.float64)


def sounds_in(truth: SongTruth, *, vocal: bool) -> np.ndarray:
    """Which of SOUNDS a song has: bool [sounds]."""
    return np.array([vocal if name == "vocal" else name in truth.instruments for name in SOUNDS])

"""A clip under measurement, and the analyses that several measures share, each made once.

N samples of a stereo wave [2, N] at 44.1 kHz; M samples of its mono mix at 22.05 kHz; F frames of HOP_SAMPLES there.
"""

from dataclasses import dataclass
from functools import cached_property

import librosa
import numpy as np

from common.audio.wave import resample
from common.music.vocal_features import VocalFeatures, vocal_features
from infer.audio.pictures import MEASURED_RATE_HZ

ANALYSIS_RATE_HZ = 22_050
HOP_SAMPLES = 512
"""Step between frames of chroma, onset strength and log-mel: 23 ms."""
SHORTEST_SECONDS = 2.0
"""A shorter clip is analysed with silence behind it: the lowest notes of the chroma need this much."""
LOWEST_HZ = 440 * 2 ** (-45 / 12)
"""C1, where the chroma begins."""
OCTAVES = 7
BANDS_PER_OCTAVE = 36
"""Of the constant-Q transform: three a semitone."""
MELS = 64
RANGE_DB = 80.0
"""Log-mel reaches this far below its loudest bin."""
ACTIVE_RANGE_DB = 30.0
"""A frame is active where its level is at most this much below the loudest frame."""


@dataclass(frozen=True)
class Clip:
    """A stereo wave [2, N] at 44.1 kHz."""

    wave: np.ndarray

    @cached_property
    def mono(self) -> np.ndarray:
        """float32 [M] at 22.05 kHz."""
        mono = resample(self.wave.mean(axis=0, keepdims=True), MEASURED_RATE_HZ, ANALYSIS_RATE_HZ)[0]
        return np.pad(mono, (0, max(0, round(SHORTEST_SECONDS * ANALYSIS_RATE_HZ) - mono.size)))

    @cached_property
    def active(self) -> np.ndarray:
        """Whether each frame sounds, bool [F]; none does in silence."""
        levels = librosa.feature.rms(y=self.mono, frame_length=2048, hop_length=HOP_SAMPLES)[0]
        return (levels > levels.max() * 10 ** (-ACTIVE_RANGE_DB / 20)) & (levels > 0)

    @cached_property
    def chroma(self) -> np.ndarray:
        """Energy of the twelve pitch classes, C first, from a constant-Q transform, of each frame: [12, F]."""
        return self._chroma(from_octave=0)

    @cached_property
    def upper_chroma(self) -> np.ndarray:
        """`chroma` without the two lowest octaves, where a mel of the codec does not tell semitones apart: [12, F]."""
        return self._chroma(from_octave=2)

    def _chroma(self, from_octave: int) -> np.ndarray:
        """Of the bands of `pitches` from that octave on."""
        if not self.mono.any():
            return np.zeros((12, self.active.size), dtype=np.float32)
        return librosa.feature.chroma_cqt(
            C=self.pitches[from_octave * BANDS_PER_OCTAVE :],
            norm=None,
            fmin=LOWEST_HZ * 2**from_octave,
            n_octaves=OCTAVES - from_octave,
            bins_per_octave=BANDS_PER_OCTAVE,
        )

    @cached_property
    def pitches(self) -> np.ndarray:
        """Magnitudes of a constant-Q transform from LOWEST_HZ up, tuned to the clip: [octaves * bands, F]."""
        return np.abs(
            librosa.cqt(
                self.mono,
                sr=ANALYSIS_RATE_HZ,
                hop_length=HOP_SAMPLES,
                fmin=LOWEST_HZ,
                n_bins=OCTAVES * BANDS_PER_OCTAVE,
                bins_per_octave=BANDS_PER_OCTAVE,
                tuning=None,
            )
        )

    @cached_property
    def sung(self) -> VocalFeatures:
        """Pitches of a voice alone."""
        return vocal_features(self.wave, MEASURED_RATE_HZ)

    @cached_property
    def tuning_cents(self) -> float | None:
        """How far its notes lie above those of 440 Hz, from -50 to 50; None in silence."""
        return 100 * float(librosa.estimate_tuning(y=self.mono, sr=ANALYSIS_RATE_HZ)) if self.mono.any() else None

    @cached_property
    def log_mel(self) -> np.ndarray:
        """dB over full scale, [MELS, F], no deeper than RANGE_DB below the loudest bin."""
        mel = librosa.feature.melspectrogram(y=self.mono, sr=ANALYSIS_RATE_HZ, hop_length=HOP_SAMPLES, n_mels=MELS)
        return librosa.power_to_db(mel, top_db=RANGE_DB)

    @cached_property
    def onset_strength(self) -> np.ndarray:
        """How much of the sound begins in each frame, [F]."""
        return librosa.onset.onset_strength(y=self.mono, sr=ANALYSIS_RATE_HZ, hop_length=HOP_SAMPLES)

    @cached_property
    def pulse(self) -> "Pulse":
        return track(self.onset_strength)


@dataclass(frozen=True)
class Pulse:
    """Tempo, beats and onsets as a beat tracker finds them."""

    tempo_bpm: float
    """0 where there is no beat."""
    beats: np.ndarray
    """Seconds."""
    onsets: np.ndarray
    """Seconds at which something begins."""


def track(onset_strength: np.ndarray) -> Pulse:
    """Tempo, beats (Ellis's dynamic programme) and onsets of an onset strength [F]."""
    tempo, beats = librosa.beat.beat_track(
        onset_envelope=onset_strength, sr=ANALYSIS_RATE_HZ, hop_length=HOP_SAMPLES, units="time", trim=False
    )
    onsets = librosa.onset.onset_detect(
        onset_envelope=onset_strength, sr=ANALYSIS_RATE_HZ, hop_length=HOP_SAMPLES, units="time"
    )
    return Pulse(float(np.ravel(tempo)[0]) if beats.size else 0.0, beats, onsets)

"""What a recording tells of itself: length, loudness, silences and range.

N samples of mono at ANALYSIS_RATE_HZ; F frames of HOP_SAMPLES there.
"""

from pathlib import Path

import librosa
import numpy as np

from common.audio.wave import loudness_lufs, peak_dbfs, read_audio, stereo_at
from common.config import Config
from common.errors import UserError
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip

SHORTEST_SILENCE = 0.35
"""Seconds."""
LOWEST_HZ, HIGHEST_HZ = 65.0, 1050.0
RANGE_PERCENTILES = (5, 95)
"""Of the pitches that are sung: slides and slips beyond count for nothing."""
PITCH_SAMPLES = 2048


class VoiceAnalysis(Config):
    """Of one recording."""

    seconds: float
    lufs: float
    """Integrated loudness."""
    peak_dbfs: float
    low_note: str | None
    high_note: str | None
    silences: tuple[tuple[float, float], ...]
    """Seconds from and to."""


def analyse_voice(path: Path) -> VoiceAnalysis:
    """Measure a recording. Raises UserError for one that is silent or shorter than a loudness block."""
    audio = read_audio(path)
    lufs = loudness_lufs(audio.samples, audio.rate_hz)
    if not np.isfinite(lufs):
        raise UserError("this recording is silent. Give one that can be heard.")
    clip = Clip(stereo_at(audio, MEASURED_RATE_HZ))
    active = clip.active[: int(np.ceil(audio.seconds * ANALYSIS_RATE_HZ / HOP_SAMPLES))]
    low, high = _range(clip.mono, active)
    return VoiceAnalysis(
        seconds=audio.seconds,
        lufs=lufs,
        peak_dbfs=peak_dbfs(audio.samples),
        low_note=low,
        high_note=high,
        silences=silences_of(active, audio.seconds),
    )


def _range(mono: np.ndarray, active: np.ndarray) -> tuple[str | None, str | None]:
    pitches = librosa.yin(
        mono,
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
        sr=ANALYSIS_RATE_HZ,
        frame_length=PITCH_SAMPLES,
        hop_length=HOP_SAMPLES,
    )
    frames = min(pitches.size, active.size)
    sung = pitches[:frames][active[:frames]]
    sung = sung[(sung > LOWEST_HZ * 1.02) & (sung < HIGHEST_HZ * 0.98)]
    if not sung.size:
        return None, None
    low, high = np.percentile(sung, RANGE_PERCENTILES)
    return _note(low), _note(high)


def _note(hz: float) -> str:
    return str(librosa.hz_to_note(float(hz), unicode=False))


def silences_of(active: np.ndarray, seconds: float) -> tuple[tuple[float, float], ...]:
    """Stretches of SHORTEST_SILENCE or more where no frame of `active` [F] sounds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], active, [True]]).astype(int)))
    times = edges * HOP_SAMPLES / ANALYSIS_RATE_HZ
    found = [
        (round(float(a), 3), round(min(float(b), seconds), 3)) for a, b in zip(times[::2], times[1::2], strict=True)
    ]
    return tuple((start, end) for start, end in found if end - start >= SHORTEST_SILENCE)

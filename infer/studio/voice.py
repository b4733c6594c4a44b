"""What a recording tells of itself: length, loudness, silences, tempo, key and range, each with how sure it is.

N samples of mono at ANALYSIS_RATE_HZ; F frames of HOP_SAMPLES there.
"""

from pathlib import Path
from typing import Annotated

import librosa
import numpy as np
from pydantic import Field

from common.audio.wave import loudness_lufs, peak_dbfs, read_audio, stereo_at
from common.config import Config
from common.errors import UserError
from common.music.key import key_correlations
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip

SLOWEST_BPM, FASTEST_BPM, USUAL_BPM = 50, 200, 110
"""Tempi that are looked for, and the one that is liked best where several fit."""
SURE_MARGIN = 0.2
"""By so much the best key's correlation stands above the second's where it is sure."""
SHORTEST_SILENCE = 0.35
"""Seconds."""
LOWEST_HZ, HIGHEST_HZ = 65.0, 1050.0
RANGE_PERCENTILES = (5, 95)
"""Of the pitches that are sung: slides and slips beyond count for nothing."""
PITCH_SAMPLES = 2048

Sureness = Annotated[float, Field(ge=0, le=1)]


class VoiceAnalysis(Config):
    """Of one recording."""

    seconds: float
    lufs: float
    """Integrated loudness."""
    peak_dbfs: float
    tempo_bpm: float | None
    """Null where nothing recurs."""
    tempo_sure: Sureness
    """How periodic the onsets are at that tempo."""
    key: str | None
    """ "A minor"; null where nothing sounds."""
    key_sure: Sureness
    """How far the key stands out from the next best."""
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
    tempo, tempo_sure = estimate_tempo(clip.onset_strength)
    key, key_sure = _key(clip)
    low, high = _range(clip.mono, active)
    return VoiceAnalysis(
        seconds=audio.seconds,
        lufs=lufs,
        peak_dbfs=peak_dbfs(audio.samples),
        tempo_bpm=tempo,
        tempo_sure=tempo_sure,
        key=key,
        key_sure=key_sure,
        low_note=low,
        high_note=high,
        silences=silences_of(active, audio.seconds),
    )


def estimate_tempo(onset_strength: np.ndarray) -> tuple[float | None, float]:
    """Tempo at which an onset strength [F] recurs most, and how much of it does, 0 to 1."""
    centred = onset_strength - onset_strength.mean()
    recurrence = np.correlate(centred, centred, "full")[centred.size - 1 :]
    if recurrence[0] <= 0:
        return None, 0.0
    frames_a_minute = 60 * ANALYSIS_RATE_HZ / HOP_SAMPLES
    lags = np.arange(int(frames_a_minute / FASTEST_BPM), min(int(frames_a_minute / SLOWEST_BPM) + 1, centred.size - 1))
    if lags.size < 3:
        return None, 0.0
    shares = recurrence[lags] / recurrence[0] * centred.size / (centred.size - lags)
    liked = shares * np.exp(-0.5 * (np.log2(frames_a_minute / lags / USUAL_BPM) / 0.9) ** 2)
    best = int(liked.argmax())
    if shares[best] <= 0:
        return None, 0.0
    lag = lags[best] + _vertex(shares, best)
    return round(float(frames_a_minute / lag), 1), float(np.clip(shares[best], 0, 1))


def _vertex(values: np.ndarray, at: int) -> float:
    """Where between its neighbours the parabola through a highest value is highest, -0.5 to 0.5."""
    if not 0 < at < values.size - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _key(clip: Clip) -> tuple[str | None, float]:
    scores = key_correlations(clip.upper_chroma)
    if not scores:
        return None, 0.0
    best, second, *_ = sorted(scores.values(), reverse=True)
    return max(scores, key=lambda key: scores[key]), float(np.clip((best - second) / SURE_MARGIN, 0, 1))


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

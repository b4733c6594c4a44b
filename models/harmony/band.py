"""The lead sheet of a band, or of a whole song, by rules: what it plays, not what it could. No torch.

F frames, FEATURE_RATE_HZ a second; n beats; S chords as in chords.py.
"""

from functools import cache

import librosa
import numpy as np
import scipy.ndimage

from common.music.lead_sheet import LeadSheet
from common.music.vocal_features import FEATURE_RATE_HZ, means_between
from models.harmony.beats import track_beats
from models.harmony.chords import KEYS, NO_CHORD, decode_chords, is_minor
from models.harmony.harmoniser import sheet_of_tracks
from models.harmony.rules import log_chord_prior

RATE_HZ = 22_050
HOP_SAMPLES = RATE_HZ // FEATURE_RATE_HZ
SILENT_DBFS = -65.0
ONSET_GAIN, ONSET_BIAS = 7.0, -2.5
"""Log-odds of a beat: gain at an onset as strong as the strong ones, bias where there is none."""
CHANGE_GAIN, CHANGE_BIAS = 6.0, -2.0
"""Log-odds that a beat is a downbeat: gain where the harmony changes as much as it does anywhere."""
CHANGE_SECONDS = 0.5
"""On either side of a moment, in which the harmony is compared."""
TONE_WEIGHTS = (1.0, 0.8, 0.9)
"""How much of root, third and fifth a chord's chroma holds."""
FIT_GAIN, NO_CHORD_FIT = 18.0, 0.62
"""Log-likelihood by the cosine of a beat's chroma and a chord's; and the cosine that no chord counts as."""


def lead_sheet_of_band(wave: np.ndarray, rate_hz: int) -> LeadSheet:
    """Tempo, beats, key and chords of a band or a song, [c, N] or [N]; empty in silence or for less than two beats.

    Bars have four beats and chords are triads.
    """
    mono = np.asarray(wave, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    if 20 * np.log10(np.sqrt(np.mean(mono**2)) + 1e-9) < SILENT_DBFS:
        return LeadSheet()
    mono = librosa.resample(mono, orig_sr=rate_hz, target_sr=RATE_HZ)
    chroma = _chroma(mono)
    beats = track_beats(_beat_log_odds(mono), _downbeat_log_odds(chroma), FEATURE_RATE_HZ)
    if len(beats) < 2:
        return LeadSheet()
    played = librosa.util.normalize(means_between(chroma, beats.edges()), norm=2)
    fits = FIT_GAIN * np.vstack([_templates() @ played, np.full(len(beats), NO_CHORD_FIT)]).T
    return sheet_of_tracks(beats, decode_chords(fits, log_chord_prior(), np.zeros(KEYS), beats.places))


def _chroma(mono: np.ndarray) -> np.ndarray:
    """How much of each pitch class sounds, C first, after the band's own tuning: [12, F]."""
    return librosa.feature.chroma_cqt(y=librosa.effects.harmonic(mono), sr=RATE_HZ, hop_length=HOP_SAMPLES)


def _beat_log_odds(mono: np.ndarray) -> np.ndarray:
    onsets = librosa.onset.onset_strength(y=mono, sr=RATE_HZ, hop_length=HOP_SAMPLES)
    strong = max(float(np.quantile(onsets, 0.97)), 1e-6)
    return ONSET_BIAS + ONSET_GAIN * np.clip(onsets / strong, 0.0, 1.5)


def _downbeat_log_odds(chroma: np.ndarray) -> np.ndarray:
    """Bars begin where the harmony changes."""
    width = round(CHANGE_SECONDS * FEATURE_RATE_HZ)
    smooth = scipy.ndimage.uniform_filter1d(librosa.util.normalize(chroma, norm=2), width, axis=1)
    smooth = librosa.util.normalize(np.pad(smooth, ((0, 0), (width, width)), mode="edge"), norm=2)
    before, after = (
        smooth[:, width // 2 : width // 2 + chroma.shape[1]],
        smooth[:, 3 * width // 2 :][:, : chroma.shape[1]],
    )
    change = 1.0 - np.sum(before * after, axis=0)
    return CHANGE_BIAS + CHANGE_GAIN * change / max(float(np.quantile(change, 0.98)), 1e-6)


@cache
def _templates() -> np.ndarray:
    """Chroma of each triad, of length 1: [S - 1, 12]."""
    templates = np.zeros((NO_CHORD, 12))
    for chord in range(NO_CHORD):
        third = 3 if is_minor(chord) else 4
        for step, weight in zip((0, third, 7), TONE_WEIGHTS, strict=True):
            templates[chord, (chord + step) % 12] = weight
    return templates / np.linalg.norm(templates, axis=1, keepdims=True)

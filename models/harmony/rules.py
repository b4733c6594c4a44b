"""Beats, key and chords of a vocal by rules: the baseline that learns nothing. No torch.

n beats, F frames; S chords and K keys as in chords.py.
"""

from functools import cache

import numpy as np
import scipy.ndimage

from common.music.vocal_features import FEATURE_RATE_HZ, VocalFeatures, means_between
from models.harmony.beats import BeatTrack, track_beats
from models.harmony.chords import CHORDS, KEYS, NO_CHORD, ChordTrack, decode_chords, is_minor

ONSET_GAIN, ONSET_BIAS = 7.5, -1.5
"""Log-odds of a beat: gain at an onset as strong as the strong ones, bias where there is none."""
CONSONANT_FRAMES = 2
"""The spectrum rises with the consonant, so much before the vowel that lies on the beat."""
PHRASE_GAIN, PHRASE_BIAS = 2.5, -1.5
"""Log-odds that a beat is a downbeat: gain where a phrase begins."""
REST_SECONDS = 0.25
"""A phrase begins where nobody sang for so long."""
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones above the tonic; minor is natural minor."""
CHORD_TONE, SCALE_TONE, OTHER_TONE = 0.26, 0.05, 0.004
"""Share of a chord's time that the melody spends on each of its tones, on others of the key, and off the key."""
DEGREE_WEIGHTS = {"major": (4, 1, 0.7, 3, 3, 2, 0), "minor": (4, 0, 1.5, 2, 1.5, 2.5, 2)}
"""How common the triad on each degree of a key is."""
OTHER_WEIGHT, NO_CHORD_SHARE = 0.02, 0.0025
"""The same of any other triad; and how rare no chord is beside all of them."""


def beats_by_rules(features: VocalFeatures) -> BeatTrack:
    """Beats lie on onsets of notes; bars begin where phrases do."""
    onsets = features.onsets[:2].sum(axis=0) + 0.5 * features.jumps
    onsets = np.roll(scipy.ndimage.gaussian_filter1d(onsets, 1.5), CONSONANT_FRAMES)
    strong = max(float(np.quantile(onsets, 0.97)), 1e-6)
    return track_beats(
        ONSET_BIAS + ONSET_GAIN * np.clip(onsets / strong, 0.0, 1.5),
        PHRASE_BIAS + PHRASE_GAIN * _phrase_starts(features),
        FEATURE_RATE_HZ,
    )


def _phrase_starts(features: VocalFeatures) -> np.ndarray:
    """1 where a phrase begins, falling to 0 within some frames: [F]."""
    sung = (features.confidence > 0.5) & (features.level > 0.5)
    rest = round(REST_SECONDS * FEATURE_RATE_HZ)
    just_sung = scipy.ndimage.maximum_filter1d(np.pad(sung, (rest, 0)), rest, origin=(rest - 1) // 2)[rest - 1 : -1]
    starts = sung & ~just_sung
    return np.clip(scipy.ndimage.gaussian_filter1d(starts.astype(float), 3.0) * 7.5, 0.0, 1.0)


def chords_by_rules(
    features: VocalFeatures, beats: BeatTrack, *, temperature: float = 0.0, rng: np.random.Generator | None = None
) -> ChordTrack:
    """Key and chords that the sung pitch classes fit; how they are drawn says `decode_chords`."""
    sung = means_between(features.chroma, beats.edges())
    emissions = np.einsum("pn,ksp->kns", sung, np.log(_tone_shares()))
    prior = log_chord_prior()
    return decode_chords(emissions, prior, np.zeros(KEYS), beats.places, temperature=temperature, rng=rng)


@cache
def log_chord_prior() -> np.ndarray:
    """Log-probability of each chord in each key, the triads of the key by DEGREE_WEIGHTS: [K, S]."""
    weights = np.full((KEYS, CHORDS), OTHER_WEIGHT)
    for key in range(KEYS):
        mode = "minor" if is_minor(key) else "major"
        for degree, weight in enumerate(DEGREE_WEIGHTS[mode]):
            root, third = (SCALES[mode][(degree + rise) % 7] for rise in (0, 2))
            if weight:
                weights[key, (key + root) % 12 + (12 if (third - root) % 12 == 3 else 0)] = weight
    weights[:, NO_CHORD] = NO_CHORD_SHARE * weights[:, :NO_CHORD].sum(axis=1)
    return np.log(weights / weights.sum(axis=1, keepdims=True))


@cache
def _tone_shares() -> np.ndarray:
    """Share of time on each pitch class, by key and chord: [K, S, 12]."""
    shares = np.full((KEYS, CHORDS, 12), OTHER_TONE)
    for key in range(KEYS):
        scale = SCALES["minor" if is_minor(key) else "major"]
        shares[key][:, [(key + step) % 12 for step in scale]] = SCALE_TONE
        for chord in range(NO_CHORD):
            shares[key, chord, [(chord + step) % 12 for step in (0, 3 if is_minor(chord) else 4, 7)]] = CHORD_TONE
    return shares / shares.sum(axis=2, keepdims=True)

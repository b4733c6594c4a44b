"""From the wave of a vocal to a lead sheet: tempo, beats, key and chords that a band may play under it. No torch.

It asks no base model: one harmoniser serves them all.
"""

import numpy as np

from common.music.chord import Chord, Key
from common.music.lead_sheet import LeadSheet, TrackedBeat, lead_sheet_of
from common.music.vocal_features import VocalFeatures, vocal_features
from models.harmony.beats import BEATS_PER_BAR, BeatTrack
from models.harmony.chords import NO_CHORD, ChordTrack, is_minor
from models.harmony.rules import beats_by_rules, chords_by_rules


class Harmoniser:
    """Infers lead sheets by rules alone."""

    def lead_sheet(self, wave: np.ndarray, rate_hz: int, *, temperature: float = 0.0, seed: int = 0) -> LeadSheet:
        """The likeliest lead sheet of a vocal [c, N] or [N]; above temperature 0 key and chords are drawn by `seed`.

        It is empty where nobody sings, or for less than two beats. Bars have four beats and chords are triads.
        """
        return self.lead_sheet_of(vocal_features(wave, rate_hz), temperature=temperature, seed=seed)

    def lead_sheet_of(self, features: VocalFeatures, *, temperature: float = 0.0, seed: int = 0) -> LeadSheet:
        """The same of the features of a vocal."""
        if not features.sung:
            return LeadSheet()
        beats = beats_by_rules(features)
        if len(beats) < 2:
            return LeadSheet()
        rng = np.random.default_rng(seed)
        return sheet_of_tracks(beats, self.chords(features, beats, temperature=temperature, rng=rng))

    def chords(
        self,
        features: VocalFeatures,
        beats: BeatTrack,
        *,
        temperature: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> ChordTrack:
        """Key and chords of a vocal whose beats are known, two or more."""
        return chords_by_rules(features, beats, temperature=temperature, rng=rng)


def sheet_of_tracks(beats: BeatTrack, chords: ChordTrack) -> LeadSheet:
    """The lead sheet of a beat track, and of the chords on its beats."""
    rows = zip(beats.seconds, beats.places, chords.numbers, chords.confidence, strict=True)
    tracked = [
        TrackedBeat(float(seconds), int(place), _chord(int(chord)), beats.confidence, float(confidence))
        for seconds, place, chord, confidence in rows
    ]
    mode = "minor" if is_minor(chords.key) else "major"
    key = Key(tonic=chords.key % 12, mode=mode, confidence=chords.key_confidence)
    return lead_sheet_of(tracked, BEATS_PER_BAR, key)


def _chord(number: int) -> Chord | None:
    return None if number == NO_CHORD else Chord.on(number % 12, "m" if is_minor(number) else "")

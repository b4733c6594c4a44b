"""A lead sheet on a grid of latent frames, as a network reads it (docs/formulation.md, section 8).

F latent frames, W = WIDTH numbers a frame.
"""

from itertools import pairwise

import numpy as np

from common.music.chord import MODES
from common.music.lead_sheet import LeadSheet

BINS = 4
"""Parts of a frame that tell where in it a beat is."""
PARTS = {"chord": 12, "bass": 12, "tonic": 12, "mode": len(MODES), "beat": BINS, "downbeat": BINS, "confidence": 3}
"""Numbers a frame, in order; `confidence` is that of chord, key and beats."""
WIDTH = sum(PARTS.values())


def part(name: str) -> slice:
    """Where a part stands among the W numbers."""
    start = sum(list(PARTS.values())[: list(PARTS).index(name)])
    return slice(start, start + PARTS[name])


def lead_sheet_features(sheet: LeadSheet, frames: int, frames_per_second: float) -> np.ndarray:
    """What a sheet says of each frame, float32 [F, W]; zeros where it says nothing.

    Each number is a confidence in [0, 1]: of the pitch classes of the chord and of its bass, averaged over the frame;
    of tonic and mode; of a beat and a downbeat in each quarter of the frame, shared between the two quarters nearest.
    """
    features = np.zeros((frames, WIDTH), np.float32)
    _fill_chords(features, sheet, frames_per_second)
    if sheet.key is not None:
        features[:, part("tonic").start + sheet.key.tonic] = sheet.key.confidence
        features[:, part("mode").start + MODES.index(sheet.key.mode)] = sheet.key.confidence
        features[:, part("confidence").start + 1] = sheet.key.confidence
    bins = frames_per_second * BINS
    confidence = np.array([bar.confidence for bar in sheet.bars])
    of_beats = np.repeat(confidence, [bar.beats for bar in sheet.bars])
    features[:, part("beat")] = _impulses(sheet.beat_times() * bins, of_beats, frames)
    features[:, part("downbeat")] = _impulses(sheet.downbeat_times() * bins, confidence, frames)
    return features


def _fill_chords(features: np.ndarray, sheet: LeadSheet, frames_per_second: float) -> None:
    """Chord, bass and their confidence, and the confidence of the beats, each averaged over the frames it covers."""
    chord, bass, sure = part("chord").start, part("bass").start, part("confidence").start
    for one in sheet.chord_segments():
        rows, covered = _covered(features, one.start * frames_per_second, one.end * frames_per_second)
        rows[:, sure] += covered * one.confidence
        if one.chord is not None:
            for note in one.chord.notes:
                rows[:, chord + note] += covered * one.confidence
            rows[:, bass + one.chord.bass] += covered * one.confidence
    for (start, end), bar in zip(pairwise(sheet.starts * frames_per_second), sheet.bars, strict=True):
        rows, covered = _covered(features, start, end)
        rows[:, sure + 2] += covered * bar.confidence


def _covered(features: np.ndarray, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """The frames [n, W] that lie between two fractional places, and the share of each that does, [n]."""
    start, end = max(start, 0.0), min(end, float(len(features)))
    if end <= start:
        return features[:0], np.zeros(0, np.float32)
    first, last = int(start), int(np.ceil(end))
    edges = np.arange(first, last + 1, dtype=np.float64)
    return features[first:last], np.diff(np.clip(edges, start, end)).astype(np.float32)


def _impulses(places: np.ndarray, sizes: np.ndarray, frames: int) -> np.ndarray:
    """Impulses at fractional bins, each shared between the two bins whose middles are nearest: [F, BINS]."""
    bins = np.zeros(frames * BINS + 2, np.float32)
    left = np.floor(places - 0.5)
    share = places - 0.5 - left
    for index, size in ((left + 1, sizes * (1 - share)), (left + 2, sizes * share)):
        inside = (index >= 0) & (index < len(bins))
        np.add.at(bins, index[inside].astype(int), size[inside])
    return bins[1:-1].reshape(frames, BINS)

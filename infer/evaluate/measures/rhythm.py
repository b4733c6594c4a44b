"""Does the band keep the time of the true one? (docs/evaluation.md#rhythm)

A solo vocal does not tell its beat within seconds, so that rhythm is measured only where the true band is known.
"""

from dataclasses import dataclass

import mir_eval
import numpy as np

from infer.evaluate.measures.clip import Pulse

TEMPO_TOLERANCE = 0.04
"""Share by which a tempo may be off."""
OCTAVES = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)
"""Multiples of the true tempo that Acc2 takes as right."""
BEAT_SECONDS, ONSET_SECONDS = 0.07, 0.05
"""How far a beat or an onset may be off."""


@dataclass(frozen=True)
class Rhythm:
    """A band's time against that of the true band; all are shares in [0, 1]."""

    tempo_acc1: float
    """1 where the tempo is right within 4 %."""
    tempo_acc2: float
    """1 where it, its double, triple, half or third is."""
    beat_f: float
    """F-measure of beats within 70 ms."""
    cmlt: float
    """Share of beats in right continuity at the true metrical level."""
    amlt: float
    """The same, where double or half time and the off-beat count as right too."""
    onset_f: float
    """F-measure of onsets within 50 ms."""


def measure_rhythm(true: Pulse, band: Pulse) -> Rhythm:
    return Rhythm(
        tempo_acc1=float(tempo_is_right(true.tempo_bpm, band.tempo_bpm, OCTAVES[:1])),
        tempo_acc2=float(tempo_is_right(true.tempo_bpm, band.tempo_bpm, OCTAVES)),
        beat_f=beat_f(true.beats, band.beats),
        cmlt=continuity(true.beats, band.beats)[0],
        amlt=continuity(true.beats, band.beats)[1],
        onset_f=onset_f(true.onsets, band.onsets),
    )


def tempo_is_right(true_bpm: float, bpm: float, multiples: tuple[float, ...]) -> bool:
    """Whether `bpm` is within 4 % of some multiple of the true tempo; no tempo is never right."""
    return true_bpm > 0 and any(abs(bpm / (true_bpm * m) - 1) <= TEMPO_TOLERANCE for m in multiples)


def beat_f(true: np.ndarray, beats: np.ndarray) -> float:
    """F-measure of beats, in seconds, within 70 ms; 0 where either has none."""
    if not true.size or not beats.size:
        return 0.0
    return float(mir_eval.beat.f_measure(true, beats, f_measure_threshold=BEAT_SECONDS))


def beat_f_off_phase(true: np.ndarray, beats: np.ndarray) -> float:
    """What beats of the right tempo score by chance: the mean of `beat_f` where all beats come by 1/8, 2/8, ... 7/8 of
    a beat too late.
    """
    if true.size < 2:
        return 0.0
    beat_seconds = float(np.median(np.diff(true)))
    return float(np.mean([beat_f(true, beats + beat_seconds * eighth / 8) for eighth in range(1, 8)]))


def continuity(true: np.ndarray, beats: np.ndarray) -> tuple[float, float]:
    """CMLt and AMLt of beats in seconds; 0 where either has fewer than two."""
    if min(true.size, beats.size) < 2:
        return 0.0, 0.0
    _, cmlt, _, amlt = mir_eval.beat.continuity(true, beats)
    return float(cmlt), float(amlt)


def onset_f(true: np.ndarray, onsets: np.ndarray) -> float:
    """F-measure of onsets, in seconds, within 50 ms; 0 where either has none."""
    if not true.size or not onsets.size:
        return 0.0
    return float(mir_eval.onset.f_measure(true, onsets, window=ONSET_SECONDS)[0])

"""Does a band play what a lead sheet says? For songs whose key, tempo, beats and chords are known.

W windows of half a second.
"""

from dataclasses import dataclass

import numpy as np

from common.music.chord import Key
from common.music.lead_sheet import LeadSheet
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, HOP_SAMPLES, Clip
from infer.evaluate.measures.harmony import CHORD_FRAMES, estimate_key, find_chords
from infer.evaluate.measures.rhythm import OCTAVES, beat_f, tempo_is_right


@dataclass(frozen=True)
class SheetFit:
    """How a band fits a lead sheet; all are shares in [0, 1]."""

    key: float
    """1 where the band has the sheet's key signature: relative keys count as one."""
    tempo: float
    """1 where the tempo is right within 4 %, or its double, triple, half or third is."""
    beats: float
    """F-measure within 70 ms."""
    chords: float
    """Share of half seconds whose triad is the sheet's."""


def measure_sheet(sheet: LeadSheet, band: Clip) -> SheetFit:
    """A band against a sheet that has a key and bars, both from the same second on."""
    assert sheet.key is not None
    assert sheet.bpm is not None
    found, key, seconds = find_chords(band.chroma), estimate_key(band), band.mono.size / ANALYSIS_RATE_HZ
    return SheetFit(
        key=float(key is not None and Key.of_name(key).signature == sheet.key.signature),
        tempo=float(tempo_is_right(sheet.bpm, band.pulse.tempo_bpm, OCTAVES)),
        beats=beat_f(beats_within(sheet, seconds), band.pulse.beats),
        chords=float(np.mean(found == chords_of(sheet, len(found)))),
    )


def beats_within(sheet: LeadSheet, seconds: float) -> np.ndarray:
    """Seconds of the beats that lie in so many seconds of sound: float64."""
    beats = sheet.beat_times()
    return beats[(beats >= 0) & (beats < seconds)]


def chords_of(sheet: LeadSheet, windows: int) -> np.ndarray:
    """The chord in the middle of each window, numbered as find_chords numbers them; -1 for none or no triad: [W]"""
    middles = window_middles(windows)
    chords = np.full(windows, -1)
    for segment in sheet.chord_segments():
        triad = None if segment.chord is None else segment.chord.triad
        chords[(segment.start <= middles) & (middles < segment.end)] = -1 if triad is None else triad
    return chords


def window_middles(windows: int) -> np.ndarray:
    """Seconds at the middle of each window that find_chords names a chord for: float64 [W]"""
    return (np.arange(windows) + 0.5) * CHORD_FRAMES * HOP_SAMPLES / ANALYSIS_RATE_HZ

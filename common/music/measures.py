"""What can be measured of a song: pulse, key, bass, drums, and how high its vocal lies.

N samples of a mono wave [N] at RATE_HZ; F frames of HOP_SAMPLES.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import librosa
import numpy as np
import scipy.fft
import scipy.ndimage

from common.music.key import key_correlations

RATE_HZ = 22_050
HOP_SAMPLES = 512
"""Step between frames: 23 ms."""
FRAMES_PER_SECOND = RATE_HZ / HOP_SAMPLES
WINDOW_SAMPLES = 2048
SOUNDS = 1e-3
"""A frame sounds where its energy is at least this share of that of the loud ones (their 95th percentile)."""
SILENCE = 1e-9
"""Shares below this are rounding."""
TEMPI_BPM = np.arange(50.0, 220.0, 0.1)
USUAL_BPM, USUAL_OCTAVES = 112.0, 0.6
"""Of a tempo, its half and its double, that is taken which lies nearer to the usual one."""
HARMONICS: Mapping[int, float] = {1: 1.0, 2: 1.0, 3: 0.5, 4: 1.0}
"""Multiples of the tempo that a pulse shows too, and their weights."""
PULSE_HZ = (0.5, 10.0)
TREND_SECONDS = 2.0
"""Swells slower than this are no pulse."""
NEAR_OCTAVES = 0.06
PARTS = 4
"""A tempo is looked for in each quarter of a song as well."""
SAME_TEMPO = 0.04
BASS_HZ = (30, 130)
HISS_HZ = 5000
"""Above this, a band has cymbals and little else."""
HISSES = 0.1
"""The share of frames with most hiss by which drums are known."""
VOICE_HZ = (70, 900)
NEAR_SEMITONES = 6
LOUD_RANGE_DB = 20.0
"""The pitch of a vocal is taken where it is at most this far below its loudest frame."""


@dataclass(frozen=True)
class Tempo:
    """A tempo and what speaks for it."""

    bpm: float
    strength: float
    """How far its multiples stand out of the spectrum of onsets: 1 is none."""
    lead: float
    """Strength over that of the best other tempo that is no half, double, third or triple."""
    steady: float
    """Share of the song's quarters whose own tempo is the same, octaves apart."""
    rise_db: float
    """Onset strength of its strong moments (95th percentile of frames): a held tone ripples, but by little."""


@dataclass(frozen=True)
class KeyFit:
    """The key whose profile fits best."""

    name: str
    fit: float
    """Correlation with the profile."""
    lead: float
    """How much more that is than that of the second best key."""


@dataclass(frozen=True)
class BandSound:
    """What a band, or a mix, sounds like."""

    bass_db: float
    """Median over frames of the energy from 30 to 130 Hz against all: a kick drum alone does not raise it."""
    hiss_db: float
    """Loud moments above 5 kHz (the 95th percentile of frames) against the median of all energy."""
    hiss_range_db: float
    """The same against quiet moments above 5 kHz (the 30th percentile)."""
    hiss_flatness: float
    """Geometric over arithmetic mean of the spectrum there in the tenth of frames with most of it: 0 is a tone, 0.56
    noise, as of cymbals and snares."""
    onsets: float
    """A second."""


@dataclass(frozen=True)
class Register:
    """How high a vocal lies."""

    midi: float
    """Its median pitch."""
    near: float
    """Share of its loud frames within half an octave of that: what pitch trackers take for a voice wanders more."""


def find_tempo(strength: np.ndarray) -> Tempo | None:
    """The tempo of an onset strength [F]; None where nothing begins."""
    found = _tempo(strength)
    if found is None:
        return None
    bpm, over, lead = found
    edges = np.linspace(0, strength.size, PARTS + 1).astype(int)
    quarters = [_tempo(strength[start:end]) for start, end in pairwise(edges)]
    same = [quarter is not None and same_but_octaves(quarter[0], bpm) for quarter in quarters]
    return Tempo(bpm, over, lead, float(np.mean(same)), float(np.percentile(strength, 95)))


def same_but_octaves(one_bpm: float, other_bpm: float) -> bool:
    """Whether one tempo is the other, its half or its double, within 4 %."""
    return any(abs(one_bpm / (other_bpm * share) - 1) <= SAME_TEMPO for share in (0.5, 1.0, 2.0))


def onset_strength(wave: np.ndarray) -> np.ndarray:
    """How much of the sound begins in each frame, [F]."""
    return librosa.onset.onset_strength(y=wave, sr=RATE_HZ, hop_length=HOP_SAMPLES)


def _tempo(strength: np.ndarray) -> tuple[float, float, float] | None:
    """bpm, strength and lead of the best tempo."""
    spectrum, step_hz = _pulse_spectrum(strength)
    hz = np.arange(spectrum.size) * step_hz
    floor = float(np.median(spectrum[(hz > PULSE_HZ[0]) & (hz < PULSE_HZ[1])]))
    if floor <= 0:
        return None
    over = sum(weight * np.interp(times * TEMPI_BPM / 60, hz, spectrum) for times, weight in HARMONICS.items())
    over = np.asarray(over) / (sum(HARMONICS.values()) * floor)
    likely = over * np.exp(-0.5 * (np.log2(TEMPI_BPM / USUAL_BPM) / USUAL_OCTAVES) ** 2)
    best = int(np.argmax(likely))
    apart = np.log2(TEMPI_BPM / TEMPI_BPM[best])
    related = [np.abs(apart - interval) < NEAR_OCTAVES for interval in np.log2((1, 2, 1 / 2, 3, 1 / 3))]
    rival = float(likely[~np.logical_or.reduce(related)].max())
    return float(TEMPI_BPM[best]), float(over[best]), float(likely[best]) / rival


def _pulse_spectrum(strength: np.ndarray) -> tuple[np.ndarray, float]:
    """Magnitudes of the frequencies of an onset strength [F], and the step between these in Hz."""
    swell = scipy.ndimage.uniform_filter1d(strength, int(TREND_SECONDS * FRAMES_PER_SECOND))
    size = scipy.fft.next_fast_len(16 * strength.size)
    window = np.hanning(strength.size)
    return np.abs(scipy.fft.rfft((strength - swell) * window, size)), FRAMES_PER_SECOND / size


def find_key(wave: np.ndarray) -> KeyFit | None:
    """The key of a wave [N]; None in silence."""
    if not wave.any():
        return None
    chroma = librosa.feature.chroma_cqt(
        y=wave, sr=RATE_HZ, hop_length=HOP_SAMPLES, norm=None, fmin=float(librosa.note_to_hz("C3")), n_octaves=5
    )
    scores = key_correlations(chroma)
    if not scores:
        return None
    best, second = sorted(scores, key=lambda key: scores[key], reverse=True)[:2]
    return KeyFit(best, scores[best], scores[best] - scores[second])


def find_band_sound(wave: np.ndarray, strength: np.ndarray) -> BandSound | None:
    """What a wave [N] of that onset strength [F] sounds like; None in silence."""
    if not wave.any():
        return None
    power = np.abs(librosa.stft(wave, n_fft=WINDOW_SAMPLES, hop_length=HOP_SAMPLES)) ** 2
    hz = librosa.fft_frequencies(sr=RATE_HZ, n_fft=WINDOW_SAMPLES)
    whole = power.sum(axis=0)
    sounding = whole > SOUNDS * np.percentile(whole, 95)
    power, whole = power[:, sounding], whole[sounding]
    bass = power[(hz > BASS_HZ[0]) & (hz < BASS_HZ[1])].sum(axis=0) / whole
    hiss = power[hz > HISS_HZ]
    of_frame = hiss.sum(axis=0)
    loud = np.percentile(of_frame, 95)
    most = hiss[:, np.argsort(of_frame)[-max(1, int(HISSES * of_frame.size)) :]] + SILENCE * whole.max()
    onsets = librosa.onset.onset_detect(onset_envelope=strength, sr=RATE_HZ, hop_length=HOP_SAMPLES)
    return BandSound(
        bass_db=float(10 * np.log10(np.median(bass) + SILENCE)),
        hiss_db=float(10 * np.log10(loud / np.median(whole) + SILENCE)),
        hiss_range_db=float(10 * np.log10(loud / (np.percentile(of_frame, 30) + SILENCE * whole.max()) + SILENCE)),
        hiss_flatness=float(np.median(np.exp(np.log(most).mean(axis=0)) / most.mean(axis=0))),
        onsets=float(len(onsets) / wave.size * RATE_HZ),
    )


def find_register(vocal: np.ndarray) -> Register | None:
    """How high a vocal alone [N] lies; None in silence."""
    if not vocal.any():
        return None
    hertz = librosa.yin(
        vocal,
        fmin=VOICE_HZ[0],
        fmax=VOICE_HZ[1],
        sr=RATE_HZ,
        frame_length=WINDOW_SAMPLES,
        hop_length=HOP_SAMPLES,
    )
    level = librosa.feature.rms(y=vocal, frame_length=WINDOW_SAMPLES, hop_length=HOP_SAMPLES)[0][: hertz.size]
    loud = level > level.max() * 10 ** (-LOUD_RANGE_DB / 20)
    pitch = librosa.hz_to_midi(hertz[: level.size][loud])
    return Register(float(np.median(pitch)), float(np.mean(np.abs(pitch - np.median(pitch)) <= NEAR_SEMITONES)))

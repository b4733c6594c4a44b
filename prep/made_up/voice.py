"""The made-up singer: consonants and vowels on the notes of the melody, with glides, vibrato and breaths.

The voice is made phrase by phrase, so that memory does not grow with the song. F frames of tract.HOP samples.
"""

from dataclasses import dataclass

import numpy as np

from prep.made_up.melody import Phrase, SungNote
from prep.made_up.phonemes import BREATH, CONSONANTS, VOWELS
from prep.made_up.signal import SAMPLE_RATE_HZ, add_at, band_noise, smooth
from prep.made_up.tract import HOP, TractControls, frames_in, hertz_of, utter
from prep.made_up.world import Singer, stream

TRACT_SCALE: dict[Singer, float] = {"female": 1.16, "male": 1.0}
"""A shorter tract moves every formant up."""
GLIDE_SECONDS = 0.075
"""From one pitch to the next."""
ARTICULATION_SECONDS = 0.045
"""From one shape of the tract to the next."""
GAIN_SECONDS = 0.02
TAIL_SECONDS = 0.1
"""After the last vowel, for the tract to ring out."""
BREATH_SECONDS = 0.28
BREATH_PAUSE_SECONDS = 0.04
BREATH_GAIN = 0.07
ASPIRATION_GAIN = 0.016
"""Breath that is heard through every vowel."""
VIBRATO_DELAY_SECONDS = 0.18
VIBRATO_RISE_SECONDS = 0.3
SCOOP_SECONDS = 0.05
JITTER_CENTS = 9.0
JITTER_FRAMES = 9
OUT_OF_TUNE_SEMITONES = 0.06
"""Standard deviation from note to note."""


@dataclass(frozen=True)
class Throat:
    """What makes this singer this singer."""

    tract_scale: float
    vibrato_hz: float
    vibrato_cents: float
    scoop_cents: float
    """How far below its pitch a phrase begins."""


def sing(phrases: tuple[Phrase, ...], *, singer: Singer, samples: int, seed: int) -> np.ndarray:
    """The dry voice, float32 [samples]; exactly zero where nobody sings or breathes."""
    rng = stream(seed, "voice")
    throat = _draw_throat(singer, rng)
    voice = np.zeros(samples, dtype=np.float32)
    for phrase in phrases:
        start_seconds = phrase[0].onset_seconds - BREATH_PAUSE_SECONDS - BREATH_SECONDS
        sound = utter(_tracks(phrase, start_seconds, throat, rng), rng)
        add_at(voice, sound, round(start_seconds * SAMPLE_RATE_HZ))
        for note in (note for note in phrase if CONSONANTS[note.syllable.consonant].noise):
            noise = _consonant_noise(note, rng)
            add_at(voice, noise, round(note.start_seconds * SAMPLE_RATE_HZ) - len(noise))
    return voice


def _draw_throat(singer: Singer, rng: np.random.Generator) -> Throat:
    return Throat(
        tract_scale=TRACT_SCALE[singer] * rng.uniform(0.95, 1.05),
        vibrato_hz=rng.uniform(4.9, 6.1),
        vibrato_cents=rng.uniform(20.0, 45.0),
        scoop_cents=rng.uniform(0.0, 80.0),
    )


def _tracks(phrase: Phrase, start_seconds: float, throat: Throat, rng: np.random.Generator) -> TractControls:
    """Targets of a breath and then each note, step by step, smoothed as fast as each organ can move."""
    frames = frames_in(phrase[-1].end_seconds + TAIL_SECONDS - start_seconds)
    midi, voicing, aspiration, vibrato = np.full(frames, float(phrase[0].midi)), *np.zeros((3, frames))
    formants = np.tile(np.array(BREATH)[:, None], frames)
    aspiration[1 : frames_in(BREATH_SECONDS)] = BREATH_GAIN
    for note in phrase:
        onset, vowel, end = (
            frames_in(seconds - start_seconds) for seconds in (note.onset_seconds, note.start_seconds, note.end_seconds)
        )
        consonant, shape = CONSONANTS[note.syllable.consonant], VOWELS[note.syllable.vowel]
        midi[onset + (vowel - onset) // 3 :] = note.midi + rng.normal(0.0, OUT_OF_TUNE_SEMITONES)
        formants[:, onset:vowel] = np.array(consonant.formants or shape)[:, None]
        formants[:, vowel:] = np.array(shape)[:, None]
        voicing[onset:vowel], voicing[vowel:end] = consonant.voicing * note.accent, note.accent
        aspiration[onset:vowel], aspiration[vowel:end] = consonant.aspiration * note.accent, ASPIRATION_GAIN
        vibrato[vowel:end] = _vibrato_depth(end - vowel)
    scoop = _scoop(frames, frames_in(phrase[0].start_seconds - start_seconds)) * throat.scoop_cents / 100
    pitch = smooth(midi + scoop, frames_in(GLIDE_SECONDS)) + _wander(vibrato, throat, rng)
    return TractControls(
        midi=pitch,
        voicing=smooth(voicing, frames_in(GAIN_SECONDS)),
        aspiration=smooth(aspiration, frames_in(GAIN_SECONDS)),
        formants=_tuned(smooth(formants * throat.tract_scale, frames_in(ARTICULATION_SECONDS)), pitch),
    )


def _vibrato_depth(frames: int) -> np.ndarray:
    """None at first, then rising to 1 over the note: [frames]."""
    return np.clip((_seconds(frames) - VIBRATO_DELAY_SECONDS) / VIBRATO_RISE_SECONDS, 0.0, 1.0)


def _scoop(frames: int, vowel: int) -> np.ndarray:
    """-1 up to frame `vowel`, then rising to 0: [frames]."""
    return -np.exp(-np.maximum(_seconds(frames) - vowel * HOP / SAMPLE_RATE_HZ, 0.0) / SCOOP_SECONDS)


def _wander(depth: np.ndarray, throat: Throat, rng: np.random.Generator) -> np.ndarray:
    """Vibrato of `depth` [F] and the small unsteadiness of a throat, in semitones: [F]."""
    turns = throat.vibrato_hz * _seconds(len(depth)) + rng.random()
    jitter = smooth(rng.standard_normal(len(depth)), JITTER_FRAMES) * JITTER_CENTS
    return (depth * throat.vibrato_cents * np.sin(2 * np.pi * turns) + jitter) / 100


def _seconds(frames: int) -> np.ndarray:
    return np.arange(frames) * HOP / SAMPLE_RATE_HZ


def _tuned(formants: np.ndarray, midi: np.ndarray) -> np.ndarray:
    """High notes open the mouth: the first formant of [5, F] never lies below the pitch [F], nor the second near it."""
    first = np.maximum(formants[0], 1.05 * hertz_of(midi))
    second = np.maximum(formants[1], first + 200.0)
    return np.stack([first, second, *formants[2:]])


def _consonant_noise(note: SungNote, rng: np.random.Generator) -> np.ndarray:
    """The hiss or burst before the vowel of `note`, [n]: a hiss swells, a burst dies away."""
    consonant = CONSONANTS[note.syllable.consonant]
    place = np.linspace(0.0, 1.0, round(consonant.noise_seconds * SAMPLE_RATE_HZ))
    envelope = np.sin(np.pi * place) ** 0.7 if consonant.noise_seconds > 0.05 else np.exp(-4 * place) * (1 - place)
    return band_noise(len(place), consonant.noise_band_hz, rng) * envelope * consonant.noise * note.accent

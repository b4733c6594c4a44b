"""Made-up songs as the harmony network sees them, and what is true of them.

L half beats, D numbers each, as in models/harmony/half_beats.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from common.config import Config
from common.music.vocal_features import FEATURE_RATE_HZ, VocalFeatures
from models.harmony.beats import BeatTrack
from models.harmony.chords import transposed
from models.harmony.half_beats import PARTS, half_beats
from prep.made_up.melody import Phrase, compose
from prep.made_up.phonemes import CONSONANTS
from prep.made_up.world import BEATS_PER_BAR, World, draw_world
from recipe.loop import TrainingSettings

FIRST_SEED, LAST_SEED = 10_000, 590_000
"""Songs of the training; those that choose and judge begin at 600000."""


class HarmoniserSettings(Config):
    training: TrainingSettings = TrainingSettings(
        steps=600, batch=32, learning_rate=3e-3, warmup_steps=60, average_decay=0.99
    )
    seconds: tuple[float, ...] = (10.0, 10.0, 10.0, 20.0)
    """Lengths of songs, of which one is drawn for each."""
    beat_seconds: Annotated[float, Field(ge=0)] = 0.008
    """Standard deviation by which beats are off."""
    wrong_bar_share: Annotated[float, Field(ge=0, le=1)] = 0.12
    """Share of songs whose downbeats are one, two or three beats off, as found beats may be."""
    other_signature_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of songs that are transposed away from their likeliest signature."""
    softest: Annotated[float, Field(gt=0, le=1)] = 0.7
    """A half beat's pitch classes are weakened to as little as this."""
    gap_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of songs of which a tenth is not sung."""
    key_weight: Annotated[float, Field(gt=0)] = 0.3
    """Weight of the key's cross entropy beside that of the chords."""


@dataclass(frozen=True)
class Example:
    """A song as the network sees it, and what is true of it."""

    values: np.ndarray  # [L, D]
    chords: np.ndarray  # int [L], counted from the signature
    key: int


def draw_example(rng: np.random.Generator, settings: HarmoniserSettings) -> Example:
    """A song that was never drawn like this before."""
    seconds = float(rng.choice(settings.seconds))
    world = draw_world(int(rng.integers(FIRST_SEED, LAST_SEED)), seconds)
    made = example_of(world, _disturbed(true_beats(world), rng, settings), features_of_notes(compose(world), seconds))
    values = made.values.copy()
    values[:, :12] *= rng.uniform(settings.softest, 1.0, (len(values), 1))
    if rng.random() < settings.gap_share:
        values[:, :13] *= rng.random((len(values), 1)) > 0.1
    semitones = int(rng.integers(12)) if rng.random() < settings.other_signature_share else 0
    values[:, :12] = np.roll(values[:, :12], semitones, axis=1)
    return Example(values, transposed(made.chords, semitones), int(transposed(np.array(made.key), semitones)))


def _disturbed(beats: BeatTrack, rng: np.random.Generator, settings: HarmoniserSettings) -> BeatTrack:
    """Beats as a tracker might find them."""
    places = beats.places
    if rng.random() < settings.wrong_bar_share:
        places = (places + rng.integers(1, BEATS_PER_BAR)) % BEATS_PER_BAR
    return BeatTrack(beats.seconds + rng.normal(0, settings.beat_seconds, len(beats)), places, 1.0)


def example_of(world: World, beats: BeatTrack, features: VocalFeatures) -> Example:
    """A song with its beats and features, and the truth about its chords and key."""
    sung = half_beats(features, beats)
    edges = beats.edges(PARTS)
    starts = [bar.start_seconds for bar in world.bars]
    bars = np.clip(np.searchsorted(starts, (edges[:-1] + edges[1:]) / 2, side="right") - 1, 0, None)
    chords = np.array([_triad(world, bar.degree) for bar in world.bars])[bars]
    key = world.tonic + (12 if world.mode == "minor" else 0)
    return Example(sung.values, transposed(chords, -sung.signature), int(transposed(np.array(key), -sung.signature)))


def _triad(world: World, degree: int) -> int:
    """The number of the chord on a degree."""
    root, third, _ = world.triad(degree)
    return root + (12 if (third - root) % 12 == 3 else 0)


def true_beats(world: World) -> BeatTrack:
    """The beats that lie in the clip."""
    seconds = np.array(
        [bar.start_seconds + beat * world.beat_seconds for bar in world.bars for beat in range(BEATS_PER_BAR)]
    )
    inside = (seconds >= 0) & (seconds < world.seconds)
    return BeatTrack(seconds[inside], np.tile(np.arange(BEATS_PER_BAR), len(world.bars))[inside], 1.0)


def features_of_notes(phrases: Sequence[Phrase], seconds: float) -> VocalFeatures:
    """What `vocal_features` would measure of the notes, but for onsets."""
    frames = int(seconds * FEATURE_RATE_HZ) + 1
    midi, confidence = np.zeros((2, frames), np.float32)
    for note in (note for phrase in phrases for note in phrase):
        times = (note.onset_seconds, note.start_seconds, note.end_seconds)
        onset, vowel, end = (max(0, round(time * FEATURE_RATE_HZ)) for time in times)
        midi[onset : end + 4] = note.midi
        confidence[onset:vowel] = min(1.0, 2 * CONSONANTS[note.syllable.consonant].voicing)
        confidence[vowel:end] = 1.0
        confidence[end : end + 3] = 0.5
    return VocalFeatures(midi, confidence, confidence, np.zeros((3, frames), np.float32), 0.0)

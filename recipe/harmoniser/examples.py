"""Made-up songs as the harmony network sees them, and what is true of them."""

from collections.abc import Sequence

import numpy as np

from common.config import Config
from common.music.vocal_features import FEATURE_RATE_HZ, VocalFeatures
from models.harmony.beats import BeatTrack
from models.harmony.chords import transposed
from models.harmony.half_beats import PARTS, half_beats
from prep.made_up.melody import Phrase, compose
from prep.made_up.phonemes import CONSONANTS
from prep.made_up.world import BEATS_PER_BAR, World, draw_world
from train.fitting import TrainingSettings
from train.harmony.examples import Disturbance, Example, disturbed, disturbed_beats

FIRST_SEED, LAST_SEED = 10_000, 590_000
"""Songs of the training; those that choose and judge begin at 600000."""


class HarmoniserSettings(Config):
    training: TrainingSettings = TrainingSettings(
        steps=600, batch=32, learning_rate=3e-3, warmup_steps=60, average_decay=0.99
    )
    seconds: tuple[float, ...] = (10.0, 10.0, 10.0, 20.0)
    """Lengths of songs, of which one is drawn for each."""
    disturbance: Disturbance = Disturbance()
    """Of each drawn song."""


def draw_example(rng: np.random.Generator, settings: HarmoniserSettings) -> Example:
    """A song that was never drawn like this before."""
    seconds = float(rng.choice(settings.seconds))
    world = draw_world(int(rng.integers(FIRST_SEED, LAST_SEED)), seconds)
    beats = disturbed_beats(true_beats(world), rng, settings.disturbance)
    made = example_of(world, beats, features_of_notes(compose(world), seconds))
    return disturbed(made, rng, settings.disturbance)


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

"""The sung melody: two-bar phrases over the chords, a breath between them, the same tune whenever a section returns.

Positions are in eighths of a bar. On strong eighths (beats 1 and 3) and on long notes the melody takes a tone of the
chord near a contour; between them it passes by step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from prep.made_up.phonemes import CONSONANTS, VOWELS, Syllable
from prep.made_up.world import SECTION_BARS, Bar, Energy, SectionName, Singer, World, stream

Option = TypeVar("Option")

EIGHTHS_PER_BAR = 8
PHRASE_BARS = 2
SUNG_SECTIONS: tuple[SectionName, ...] = ("verse", "chorus")
CENTRE_MIDI: dict[Singer, int] = {"female": 64, "male": 52}
"""Middle of the verse; the chorus lies CHORUS_RISE semitones higher."""
CHORUS_RISE = 4
SHORTEST_SECONDS = 0.08
"""A note that the end of the clip would leave shorter than this is not sung."""
LATEST_SECONDS = 0.012
"""A singer's notes come up to this much early or late."""
LATE_START_CHANCE = 0.25

# Lengths in eighths; an opening fills its bar, an ending leaves the rest that parts the phrases.
OPENINGS: dict[Energy, tuple[tuple[int, ...], ...]] = {
    "calm": ((2, 2, 2, 2), (4, 2, 2), (3, 1, 4), (2, 2, 4), (3, 1, 2, 2)),
    "energetic": ((2, 1, 1, 2, 2), (1, 1, 2, 2, 2), (2, 2, 1, 1, 2), (3, 1, 2, 2), (1, 1, 1, 1, 2, 2)),
}
ENDINGS: dict[Energy, tuple[tuple[int, ...], ...]] = {
    "calm": ((5,), (2, 3), (4,), (2, 2)),
    "energetic": ((2, 3), (1, 1, 3), (2, 2, 2), (2, 1, 1), (1, 1, 2)),
}
CONTOURS: dict[SectionName, tuple[tuple[float, ...], ...]] = {
    "verse": ((-1.0, 2.0, -1.0), (2.0, 1.0, -2.0), (-2.0, 0.0, 1.0)),
    "chorus": ((0.0, 3.0, 0.0), (2.0, 2.0, -1.0), (-1.0, 2.0, 2.0)),
}
"""Steps above the middle of the range at the start, the middle and the end of a phrase."""

HOME_PULL = {0: 2.5, 4: 1.2, 2: 1.0}
"""How many steps of detour from the contour the melody takes to rest on tonic, dominant or third of the key."""


@dataclass(frozen=True)
class SungNote:
    """A vowel on a pitch; its consonant comes before `start_seconds`."""

    midi: int
    start_seconds: float
    end_seconds: float
    syllable: Syllable
    accent: float
    """Amplitude, about 1."""

    @property
    def onset_seconds(self) -> float:
        """Where its consonant begins."""
        return self.start_seconds - CONSONANTS[self.syllable.consonant].seconds


Phrase = tuple[SungNote, ...]
"""Notes sung on one breath."""


@dataclass(frozen=True)
class _Tone:
    """One note of a tune, before it has a place in the song."""

    eighth: int
    """From the start of the section."""
    eighths: int
    midi: int
    syllable: Syllable


def compose(world: World) -> tuple[Phrase, ...]:
    """All that is sung, phrase by phrase."""
    rng = stream(world.seed, "melody")
    tunes = {name: _tune(world, name, rng) for name in SUNG_SECTIONS}
    timing = stream(world.seed, "timing")
    phrases = []
    for bar in world.bars:
        if bar.section in tunes and bar.place == 0:
            phrases += [_sung(world, bar, tones, timing) for tones in tunes[bar.section]]
    return tuple(phrase for phrase in phrases if phrase)


def _tune(world: World, section: SectionName, rng: np.random.Generator) -> list[list[_Tone]]:
    """The phrases of a section, one list of tones each."""
    progression = world.progressions[section]
    return [
        _phrase(world, section, place, progression[place : place + PHRASE_BARS], rng)
        for place in range(0, SECTION_BARS, PHRASE_BARS)
    ]


def _phrase(
    world: World, section: SectionName, place: int, degrees: tuple[int, ...], rng: np.random.Generator
) -> list[_Tone]:
    """One phrase over the chords on `degrees`, beginning `place` bars into its section."""
    lengths = np.array([*_pick(OPENINGS[world.energy], rng), *_pick(ENDINGS[world.energy], rng)])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if lengths[0] == 2 and rng.random() < LATE_START_CHANCE:
        lengths, starts = lengths[1:], starts[1:]
    steps = _steps(world, section, degrees, starts, lengths, rng)
    return [
        _Tone(place * EIGHTHS_PER_BAR + int(start), int(length), world.midi(int(step)), _syllable(rng))
        for start, length, step in zip(starts, lengths, steps, strict=True)
    ]


def _steps(
    world: World,
    section: SectionName,
    degrees: tuple[int, ...],
    starts: np.ndarray,
    lengths: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scale step of each note: chord tones near the contour where the bar is strong, passing tones between."""
    centre = CENTRE_MIDI[world.singer] + (CHORUS_RISE if section == "chorus" else 0)
    contour = _pick(CONTOURS[section], rng)
    aims = _nearest_step(world, centre) + np.interp(starts / starts[-1], np.linspace(0, 1, len(contour)), contour)
    strong = (starts % 4 == 0) | (lengths >= 3) | (starts == starts[-1]) | (starts == starts[0])
    held: list[int] = []
    for start, aim in zip(starts[strong], aims[strong], strict=True):
        held.append(_chord_step(aim, degrees[start // EIGHTHS_PER_BAR], held[-1] if held else None))
    steps = np.rint(np.interp(starts, starts[strong], held)).astype(int)
    neighbours = ~strong & (steps == np.concatenate([[0], steps[:-1]]))
    return steps + neighbours * rng.choice((-1, 1), len(steps))


def _chord_step(aim: float, degree: int, before: int | None) -> int:
    """The tone of the chord on `degree` that lies nearest to `aim`; repeating a tone and wide leaps cost extra."""

    def cost(step: int) -> float:
        leap = 0 if before is None else abs(step - before)
        return abs(step - aim) + 0.8 * (step == before) + 0.5 * max(0, leap - 4) - HOME_PULL.get(step % 7, 0.0)

    nearby = range(round(aim) - 4, round(aim) + 5)
    return min((step for step in nearby if (step - degree) % 7 in (0, 2, 4)), key=cost)


def _nearest_step(world: World, midi: int) -> int:
    return min(range(75), key=lambda step: abs(world.midi(step) - midi))


def _syllable(rng: np.random.Generator) -> Syllable:
    return Syllable(_pick(tuple(CONSONANTS), rng), _pick(tuple(VOWELS), rng))


def _pick(options: Sequence[Option], rng: np.random.Generator) -> Option:
    return options[int(rng.integers(len(options)))]


def _sung(world: World, bar: Bar, tones: list[_Tone], timing: np.random.Generator) -> Phrase:
    """The tones of a phrase at their place in the song whose section starts with `bar`, cut where the clip ends."""
    notes = tuple(_placed(world, bar, tones, timing))
    limits = [min(note.onset_seconds, world.seconds) for note in notes[1:]] + [world.seconds]
    cut = (replace(note, end_seconds=min(note.end_seconds, end)) for note, end in zip(notes, limits, strict=True))
    return tuple(note for note in cut if note.end_seconds - note.start_seconds >= SHORTEST_SECONDS)


def _placed(world: World, bar: Bar, tones: list[_Tone], timing: np.random.Generator) -> Iterator[SungNote]:
    eighth_seconds = world.beat_seconds / 2
    for number, tone in enumerate(tones):
        start = bar.start_seconds + tone.eighth * eighth_seconds + timing.uniform(-LATEST_SECONDS, LATEST_SECONDS)
        swell = 0.85 + 0.3 * np.sin(np.pi * (number + 0.5) / len(tones))
        accent = swell * (1.0 if tone.eighth % 4 == 0 else 0.88)
        yield SungNote(tone.midi, start, start + tone.eighths * eighth_seconds * 0.97, tone.syllable, accent)

"""Chords and keys, and the names that musicians and programs have for them."""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator

from common.config import Config
from common.errors import UserError

PitchClass = Annotated[int, Field(ge=0, le=11)]
"""0 is C, 11 is B."""
Confidence = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 2))]
"""How sure something is, in hundredths; what a person wrote is sure."""
Mode = Literal["major", "minor"]
MODES: tuple[Mode, ...] = get_args(Mode)

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
"""Names where no key says which."""
FLAT_SIGNATURES = frozenset({5, 10, 3, 8, 1})
"""Tonics of the major keys that are written with flats."""

QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "5": (0, 7),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "m7b5": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9),
    "7sus4": (0, 5, 7, 10),
    "add9": (0, 4, 7, 2),
    "9": (0, 4, 7, 10, 2),
    "maj9": (0, 4, 7, 11, 2),
    "m9": (0, 3, 7, 10, 2),
}
"""What stands after the root of a chord's name -> semitones above the root."""
ALSO_WRITTEN = {
    "maj": "",
    "M": "",
    "min": "m",
    "-": "m",
    "M7": "maj7",
    "Δ": "maj7",
    "min7": "m7",
    "-7": "m7",
    "min6": "m6",
    "min9": "m9",
    "M9": "maj9",
    "°": "dim",
    "o": "dim",
    "°7": "dim7",
    "o7": "dim7",
    "ø": "m7b5",
    "ø7": "m7b5",
    "min7b5": "m7b5",
    "+": "aug",
    "sus": "sus4",
}
HARTE = {
    "": "maj",
    "m": "min",
    "6": "maj6",
    "m6": "min6",
    "m7": "min7",
    "m7b5": "hdim7",
    "7sus4": "sus4(b7)",
    "add9": "maj(9)",
    "m9": "min9",
}
"""Qualities whose names in .lab files (Harte 2005) differ."""
DEGREES = ("1", "b2", "2", "b3", "3", "4", "b5", "5", "b6", "6", "b7", "7")
NO_CHORD = "N.C."
NAME = re.compile(r"(?P<root>[A-G][#b♯♭]?)(?P<quality>[^/]*)(?:/(?P<bass>[A-G][#b♯♭]?))?")


def pitch_class(name: str) -> int:
    """The pitch class of a note's name such as "F#"."""
    return (SHARPS.index(name[0]) + _accidentals(name[1:])) % 12


def _accidentals(signs: str) -> int:
    """Semitones that signs such as "#" or "bb" raise a note by."""
    return sum({"#": 1, "♯": 1, "b": -1, "♭": -1}[sign] for sign in signs)


class Key(Config):
    """A key, and how sure it is."""

    tonic: PitchClass
    mode: Mode
    confidence: Confidence = 1.0

    @property
    def name(self) -> str:
        """Tonic and mode, as in "F# minor"."""
        return f"{spelling_in(self)[self.tonic]} {self.mode}"

    @property
    def signature(self) -> int:
        """Tonic of the major key with the same notes."""
        return self.tonic if self.mode == "major" else (self.tonic + 3) % 12

    def shifted(self, semitones: int) -> Self:
        """The key so much higher."""
        return self.model_copy(update={"tonic": (self.tonic + semitones) % 12})

    @classmethod
    def of_name(cls, name: str, confidence: float = 1.0) -> Self:
        """The key that "A minor", "Am", "F# major" or "Eb" names. Raises UserError for anything else."""
        found = re.fullmatch(r"\s*([A-Ga-g][#b♯♭]?)\s*(major|maj|M|minor|min|m)?\s*", name)
        if found is None:
            raise UserError(f'{name!r} is no key. Write it as "A minor" or "Eb major".')
        minor = found[2] in {"minor", "min", "m"}
        tonic = found[1][0].upper() + found[1][1:]
        return cls(tonic=pitch_class(tonic), mode="minor" if minor else "major", confidence=confidence)


def spelling_in(key: Key | None) -> tuple[str, ...]:
    """Names of the twelve pitch classes in a key: flats where its signature has them."""
    if key is None:
        return TONICS
    flat = key.signature in FLAT_SIGNATURES or (key.signature == 6 and key.mode == "minor")
    return FLATS if flat else SHARPS


class Chord(Config):
    """A chord: its root, its quality and its lowest note."""

    root: PitchClass
    quality: str = ""
    """One of QUALITIES."""
    bass: PitchClass

    @field_validator("quality")
    @classmethod
    def _known(cls, quality: str) -> str:
        if quality not in QUALITIES:
            raise ValueError(f"{quality!r} is none of {', '.join(name or 'major' for name in QUALITIES)}")
        return quality

    @classmethod
    def on(cls, root: int, quality: str = "") -> Self:
        """The chord on `root`, which is also its lowest note."""
        return cls(root=root, quality=quality, bass=root)

    @property
    def notes(self) -> tuple[int, ...]:
        """Pitch classes that sound, without the bass where that is none of them."""
        return tuple((self.root + step) % 12 for step in QUALITIES[self.quality])

    @property
    def triad(self) -> int | None:
        """Number of the triad in it: its root for major, 12 more for minor; None for others."""
        steps = set(QUALITIES[self.quality])
        minor = [number for number, quality in enumerate(("", "m")) if steps.issuperset(QUALITIES[quality])]
        return self.root + 12 * minor[0] if minor else None

    def shifted(self, semitones: int) -> Self:
        """The chord so much higher."""
        moved = {"root": (self.root + semitones) % 12, "bass": (self.bass + semitones) % 12}
        return self.model_copy(update=moved)

    def name(self, spelling: tuple[str, ...] = TONICS) -> str:
        """As musicians write it: "F#m7", "C/E"."""
        over = "" if self.bass == self.root else f"/{spelling[self.bass]}"
        return f"{spelling[self.root]}{self.quality}{over}"

    @property
    def harte(self) -> str:
        """As .lab files hold it: "F#:min7", "C:maj/3"."""
        over = "" if self.bass == self.root else f"/{DEGREES[(self.bass - self.root) % 12]}"
        return f"{TONICS[self.root]}:{HARTE.get(self.quality, self.quality)}{over}"

    @classmethod
    def of_name(cls, name: str) -> Self:
        """The chord that a musician's name means. Raises UserError for one that is not known."""
        found = NAME.fullmatch(name)
        quality = None if found is None else ALSO_WRITTEN.get(found["quality"], found["quality"])
        if found is None or quality not in QUALITIES:
            raise UserError(
                f"{name!r} is no chord that is known here. A chord is a root, one of "
                f"{', '.join(quality for quality in QUALITIES if quality)} or nothing, and a bass: C, F#m7, Bb/D. "
                f"No chord is {NO_CHORD}"
            )
        root = pitch_class(found["root"])
        return cls(root=root, quality=quality, bass=root if found["bass"] is None else pitch_class(found["bass"]))

    @classmethod
    def of_harte(cls, label: str) -> Self | None:
        """The chord of a label in a .lab file; None for "N" and "X".

        A quality that is not known is read as far as its triad goes. Raises UserError for what is no label.
        """
        if label in {"N", "X"}:
            return None
        found = re.fullmatch(r"([A-G][#b]*)(?::([^/]*))?(?:/([b#]?\d+))?", label)
        if found is None:
            raise UserError(f'{label!r} is no chord label. Write it as "A:min", "F#:maj7", "C:maj/3" or "N".')
        root = pitch_class(found[1])
        quality = _quality_of_harte(found[2] or "maj")
        return cls(root=root, quality=quality, bass=(root + _semitones(found[3])) % 12)


def _quality_of_harte(shorthand: str) -> str:
    known = {HARTE.get(quality, quality): quality for quality in QUALITIES}
    if shorthand in known:
        return known[shorthand]
    for start, quality in (("hdim", "m7b5"), ("dim", "dim"), ("aug", "aug"), ("min", "m"), ("maj7", "maj7")):
        if shorthand.startswith(start):
            return quality
    return {"s": "sus4", "7": "7", "9": "9", "1": "7"}.get(shorthand[0], "")


def _semitones(degree: str | None) -> int:
    """Semitones of a degree of the major scale: "b3" -> 3."""
    if degree is None:
        return 0
    steps = (0, 2, 4, 5, 7, 9, 11)
    number = degree.lstrip("b#")
    return steps[(int(number) - 1) % 7] + _accidentals(degree.removesuffix(number))

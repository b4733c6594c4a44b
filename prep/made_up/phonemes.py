"""What the made-up singer can say: five vowels and a handful of consonants, as targets of the vocal tract.

Formants are those of a man's voice in Hz (F1 to F5); a singer scales them to the length of his or her own tract.
"""

from dataclasses import dataclass

Formants = tuple[float, float, float, float, float]

VOWELS: dict[str, Formants] = {
    "a": (730.0, 1150.0, 2500.0, 3350.0, 4300.0),
    "e": (500.0, 1820.0, 2520.0, 3450.0, 4400.0),
    "i": (300.0, 2250.0, 2950.0, 3500.0, 4400.0),
    "o": (480.0, 850.0, 2480.0, 3300.0, 4200.0),
    "u": (330.0, 780.0, 2300.0, 3250.0, 4200.0),
}
BREATH: Formants = (550.0, 1500.0, 2500.0, 3500.0, 4500.0)
"""The open, neutral tract of a breath."""


@dataclass(frozen=True)
class Consonant:
    """What comes before the vowel. Gains are amplitudes, a sung vowel being 1."""

    seconds: float
    """From the end of the vowel before to the vowel that follows."""
    voicing: float = 0.0
    """How loud the voice sounds through it."""
    aspiration: float = 0.0
    """Breath through the tract."""
    formants: Formants | None = None
    """Where the tract aims; None: already at the vowel that follows."""
    noise: float = 0.0
    """Noise made at the teeth or lips, which the tract does not colour."""
    noise_seconds: float = 0.0
    """How long that noise lasts, up to the vowel."""
    noise_band_hz: tuple[float, float] = (1000.0, 8000.0)


CONSONANTS: dict[str, Consonant] = {
    "": Consonant(0.03, voicing=0.35),
    "m": Consonant(0.08, voicing=0.4, formants=(250.0, 1000.0, 2200.0, 3200.0, 4300.0)),
    "n": Consonant(0.075, voicing=0.4, formants=(260.0, 1450.0, 2400.0, 3300.0, 4300.0)),
    "l": Consonant(0.07, voicing=0.55, formants=(360.0, 1150.0, 2650.0, 3400.0, 4300.0)),
    "w": Consonant(0.07, voicing=0.5, formants=(300.0, 620.0, 2250.0, 3200.0, 4200.0)),
    "y": Consonant(0.07, voicing=0.5, formants=(280.0, 2250.0, 2950.0, 3500.0, 4400.0)),
    "h": Consonant(0.07, aspiration=0.5),
    "s": Consonant(0.1, noise=0.16, noise_seconds=0.095, noise_band_hz=(4800.0, 10000.0)),
    "f": Consonant(0.09, noise=0.06, noise_seconds=0.085, noise_band_hz=(1500.0, 9000.0)),
    "t": Consonant(0.065, noise=0.4, noise_seconds=0.022, noise_band_hz=(3000.0, 8000.0)),
    "k": Consonant(0.07, noise=0.4, noise_seconds=0.028, noise_band_hz=(1400.0, 3600.0)),
    "d": Consonant(0.055, voicing=0.12, noise=0.25, noise_seconds=0.012, noise_band_hz=(2500.0, 7000.0)),
    "b": Consonant(0.055, voicing=0.15, noise=0.25, noise_seconds=0.01, noise_band_hz=(300.0, 1500.0)),
}


@dataclass(frozen=True)
class Syllable:
    """A consonant (or none) and the vowel that is sung."""

    consonant: str
    vowel: str

    def __str__(self) -> str:
        return self.consonant + self.vowel

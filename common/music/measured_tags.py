"""From measures to tags: each only where its measure is sure. docs/captions.md shows what the thresholds give."""

from dataclasses import dataclass

from common.music.chord import Key
from common.music.measures import BandSound, KeyFit, Register, Tempo


@dataclass(frozen=True)
class SongMeasures:
    """What was measured of a song; None where that could not be."""

    is_mix: bool
    """Measured on the mix, voice included, as there are no stems."""
    tempo: Tempo | None
    key: KeyFit | None
    sound: BandSound | None
    register: Register | None


@dataclass(frozen=True)
class Limits:
    """Above the upper limit a tag is sure, below the lower one its opposite; between them nothing is said."""

    no: float
    yes: float


TEMPO_STRENGTH, TEMPO_LEAD, TEMPO_STEADY = 6.0, 1.4, 0.75
LEAST_ONSETS, LEAST_RISE_DB = 0.8, 0.5
"""Fewer a second, or fainter ones, make no pulse."""
KEY_FIT, KEY_LEAD = 0.7, 0.1
BASS_DB = Limits(no=-15.0, yes=-9.0)
"""Of a mix without a bass the voice may hide it: only that there is one is said."""
HISS_DB, HISS_RANGE_DB, HISS_FLATNESS = -20.0, 10.0, 0.45
"""Drums are loud noise above 5 kHz that comes and goes. So is a voice's s, so that a mix does not tell; and drums may
be without it."""
ONSETS = Limits(no=2.6, yes=3.3)
"""A second, of a sparse and of a busy band."""
REGISTER_MIDI = Limits(no=59.0, yes=63.0)
"""Of a low and of a high vocal."""
REGISTER_NEAR = 0.75


def tags_from(measures: SongMeasures) -> tuple[str, ...]:
    """The tags that are sure, in a fixed order."""
    found = [_tempo(measures.tempo, measures.sound), _key(measures.key), *_band(measures), _register(measures.register)]
    return tuple(tag for tag in found if tag is not None)


def _band(measures: SongMeasures) -> list[str | None]:
    sound = measures.sound
    if sound is None:
        return []
    bass = _said(sound.bass_db, BASS_DB, "bass", "no bass")
    if measures.is_mix:
        return [bass if bass == "bass" else None]
    strokes = sound.hiss_db > HISS_DB and sound.hiss_range_db > HISS_RANGE_DB
    drums = strokes and sound.hiss_flatness > HISS_FLATNESS
    return ["drums" if drums else None, bass, _said(sound.onsets, ONSETS, "busy", "sparse")]


def _register(register: Register | None) -> str | None:
    if register is None or register.near < REGISTER_NEAR:
        return None
    return _said(register.midi, REGISTER_MIDI, "high vocal", "low vocal")


def _said(value: float, limits: Limits, yes: str, no: str) -> str | None:
    if limits.no <= value <= limits.yes:
        return None
    return yes if value > limits.yes else no


def _tempo(tempo: Tempo | None, sound: BandSound | None) -> str | None:
    if tempo is None or sound is None or sound.onsets < LEAST_ONSETS or tempo.rise_db < LEAST_RISE_DB:
        return None
    if tempo.strength < TEMPO_STRENGTH or tempo.lead < TEMPO_LEAD or tempo.steady < TEMPO_STEADY:
        return None
    return f"{round(tempo.bpm)} bpm"


def _key(key: KeyFit | None) -> str | None:
    return Key.of_name(key.name).name if key is not None and key.fit >= KEY_FIT and key.lead >= KEY_LEAD else None

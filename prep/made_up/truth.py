"""What is true of a made-up song, as KEY_truth.json holds it: the reference that measures are checked against."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from common.config import Config
from common.music.chord import TONICS, Chord, Key, Mode
from common.music.lead_sheet import BeatChord, LeadSheet, SheetBar
from prep.made_up.melody import Phrase
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.world import BEATS_PER_BAR, Bar, Energy, Player, SectionName, Singer, World

TOLD_BY_THE_VOCAL = ("bpm", "key")
"""Endings of tags that a voice can tell as well as a prompt."""


class TimeSpan(Config):
    """A stretch of the song, in seconds from its first sample."""

    start: float
    end: float


class ChordSpan(TimeSpan):
    label: str
    """Root and quality, as in "F#:min"."""


class SectionSpan(TimeSpan):
    name: SectionName


class NoteSpan(TimeSpan):
    """A sung vowel; its consonant comes before `start`."""

    midi: int
    syllable: str


class SongTruth(Config):
    """Key, tempo, beats, chords, melody and band of a made-up song."""

    seed: int
    seconds: float
    sample_rate_hz: int = SAMPLE_RATE_HZ
    key: str
    """Tonic, one of C C# D Eb E F F# G Ab A Bb B."""
    mode: Mode
    tempo_bpm: int
    beats_per_bar: int = BEATS_PER_BAR
    energy: Energy
    singer: Singer
    instruments: tuple[Player, ...]
    beats: tuple[float, ...]
    """Seconds."""
    downbeats: tuple[float, ...]
    """Seconds; each is also a beat."""
    chords: tuple[ChordSpan, ...]
    sections: tuple[SectionSpan, ...]
    notes: tuple[NoteSpan, ...]
    prompt: str
    lyrics: str

    @property
    def full_key(self) -> str:
        """Tonic and mode, as in "F# minor"."""
        return f"{self.key} {self.mode}"


def tell_truth(world: World, phrases: tuple[Phrase, ...]) -> SongTruth:
    """The truth about a song that is played as `world` says and sung as `phrases` say."""
    sections = tuple(_sections(world))
    return SongTruth(
        seed=world.seed,
        seconds=world.seconds,
        key=TONICS[world.tonic],
        mode=world.mode,
        tempo_bpm=world.tempo_bpm,
        energy=world.energy,
        singer=world.singer,
        instruments=world.players,
        beats=tuple(_beats(world, range(BEATS_PER_BAR))),
        downbeats=tuple(_beats(world, range(1))),
        chords=tuple(_chords(world)),
        sections=sections,
        notes=tuple(_notes(phrases)),
        prompt=prompt_of(world),
        lyrics="\n\n".join(f"[{section.name}]" for section in sections) + "\n",
    )


def lead_sheet_of_truth(truth: SongTruth) -> LeadSheet:
    """The lead sheet of a made-up song, sure of all; the pickup and the last bar are whole bars that the clip cuts."""
    bar_seconds = truth.beats_per_bar * 60.0 / truth.tempo_bpm
    pickup = () if truth.downbeats[0] <= 0 else (truth.downbeats[0] - bar_seconds,)
    starts = (*pickup, *truth.downbeats)
    return LeadSheet(
        offset=starts[0],
        key=Key(tonic=TONICS.index(truth.key), mode=truth.mode),
        bars=tuple(
            SheetBar(
                bpm=truth.tempo_bpm,
                beats=truth.beats_per_bar,
                chords=(BeatChord(beat=0, chord=_chord_at(truth, max(start, 0.0))),),
            )
            for start in starts
        ),
    )


def _chord_at(truth: SongTruth, seconds: float) -> Chord | None:
    labels = [span.label for span in truth.chords if span.start - 1e-6 <= seconds < span.end - 1e-6]
    return Chord.of_harte(labels[-1]) if labels else None


def prompt_of(world: World) -> str:
    """Tags of what is to be heard, as in "piano, bass, drums, female vocal, 112bpm, A minor key, energetic"."""
    key = f"{TONICS[world.tonic]} {world.mode} key"
    tags = (*world.players, f"{world.singer} vocal", f"{world.tempo_bpm}bpm", key, world.energy)
    return ", ".join(tags)


def _beats(world: World, which: range) -> Iterator[float]:
    """Times of the beats numbered `which` of every bar, inside the clip."""
    for bar in world.bars:
        for beat in which:
            seconds = bar.start_seconds + beat * world.beat_seconds
            if 0.0 <= seconds < world.seconds:
                yield round(seconds, 6)


def _inside(world: World, first: Bar, bars: int) -> dict[str, float]:
    """Start and end of a run of bars, cut to the clip."""
    end = first.start_seconds + bars * world.bar_seconds
    return {"start": round(max(first.start_seconds, 0.0), 6), "end": round(min(end, world.seconds), 6)}


def _chords(world: World) -> Iterator[ChordSpan]:
    for label, group in groupby(world.bars, key=lambda bar: world.chord_label(bar.degree)):
        bars = list(group)
        yield ChordSpan(label=label, **_inside(world, bars[0], len(bars)))


def _sections(world: World) -> Iterator[SectionSpan]:
    starts = [number for number, bar in enumerate(world.bars) if bar.place == 0]
    for start, end in zip(starts, [*starts[1:], len(world.bars)], strict=True):
        yield SectionSpan(name=world.bars[start].section, **_inside(world, world.bars[start], end - start))


def _notes(phrases: tuple[Phrase, ...]) -> Iterator[NoteSpan]:
    for note in (note for phrase in phrases for note in phrase):
        yield NoteSpan(
            midi=note.midi,
            syllable=str(note.syllable),
            start=round(note.start_seconds, 6),
            end=round(note.end_seconds, 6),
        )


def untold(tags: Iterable[str]) -> str:
    """A prompt of those tags that say nothing of tempo, key and mode, so that only the vocal tells these."""
    return ", ".join(tag for tag in tags if not tag.endswith(TOLD_BY_THE_VOCAL))

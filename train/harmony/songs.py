"""Songs of shards to learn harmony from: what is sung, and the lead sheet that says what was played.

L half beats.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError
from common.music.lead_sheet import LeadSheet
from common.music.vocal_features import FEATURE_RATE_HZ, VocalFeatures
from common.progress import progress
from models.harmony.beats import BEATS_PER_BAR, BeatTrack
from models.harmony.half_beats import PARTS, half_beats
from models.harmony.rules import beats_by_rules
from shards.held_out import validation_songs
from shards.location import ShardLocation
from shards.manifest import Manifest
from shards.reader import read_manifest, read_shard
from shards.schema import OPTIONAL, VOCAL_FEATURES, Sample
from train.harmony.examples import (
    UNKNOWN,
    Disturbance,
    Example,
    HarmonyLabels,
    disturbed,
    disturbed_beats,
    labels_at,
)

FEWEST_SONGS = 10
"""With fewer there is nothing to choose and to judge by."""
MOST_BEATS = 64
"""Of one example; of a longer song a part is drawn."""
FOUND_SHARE = 0.5
"""Share of the examples on the beats that the rules find, as they will be at inference; others are on the sheet's."""


@dataclass(frozen=True)
class SungSong:
    """A segment of a song whose lead sheet is known."""

    song: str
    """Key of the song."""
    features: VocalFeatures
    sheet: LeadSheet
    found: BeatTrack
    """The beats that the rules find, two or more."""
    told: BeatTrack | None
    """Those of the sheet; None where its bars are not of four beats."""

    def example(self, beats: BeatTrack | None = None) -> Example:
        """All of it on these beats, by default on those that are found."""
        beats = self.found if beats is None else beats
        sung, true = half_beats(self.features, beats), self.truth(beats)
        return Example(sung.values, labels_at(true.chords, -sung.signature), int(labels_at(true.key, -sung.signature)))

    def truth(self, beats: BeatTrack) -> HarmonyLabels:
        """What the sheet says in the middle of each half beat."""
        edges, key = beats.edges(PARTS), self.sheet.key
        middles = (edges[:-1] + edges[1:]) / 2
        triads = np.full(len(middles), UNKNOWN)
        for segment in self.sheet.chord_segments():
            triad = None if segment.chord is None else segment.chord.triad
            triads[(segment.start <= middles) & (middles < segment.end)] = UNKNOWN if triad is None else triad
        return HarmonyLabels(triads, UNKNOWN if key is None else key.tonic + (12 if key.mode == "minor" else 0))

    def draw(self, rng: np.random.Generator, settings: Disturbance) -> Example:
        """It, or a part of it, on beats and with singing that are disturbed."""
        is_found = self.told is None or rng.random() < FOUND_SHARE
        beats = self.found if is_found or self.told is None else disturbed_beats(self.told, rng, settings)
        first = int(rng.integers(max(len(beats) - MOST_BEATS, 0) + 1))
        part, beats = self._part(beats, first)
        return disturbed(part.example(beats), rng, settings)

    def _part(self, beats: BeatTrack, first: int) -> tuple["SungSong", BeatTrack]:
        """The MOST_BEATS beats from one on, all of what is sung in them and no more."""
        if len(beats) <= MOST_BEATS:
            return self, beats
        inside, edges = slice(first, first + MOST_BEATS), beats.edges()
        begin, end = (round(max(float(edges[at]), 0.0) * FEATURE_RATE_HZ) for at in (first, first + MOST_BEATS))
        start = begin / FEATURE_RATE_HZ
        part = replace(self, features=cut_features(self.features, begin, end), sheet=self.sheet.cut(start, 1e9))
        return part, BeatTrack(beats.seconds[inside] - start, beats.places[inside], beats.confidence)


def cut_features(features: VocalFeatures, begin: int, end: int) -> VocalFeatures:
    """Its frames from `begin` to before `end`."""
    named = {name: getattr(features, name)[..., begin:end] for name in ("midi", "confidence", "level", "onsets")}
    return replace(features, **named)


@dataclass(frozen=True)
class SungSongs:
    """The songs of shards that can be learned from, divided."""

    manifest: Manifest
    training: tuple[SungSong, ...]
    held_out: tuple[SungSong, ...]

    @property
    def counts(self) -> tuple[int, int]:
        """Songs on either side, those at other pitches counted with the song that they were made of."""
        families = {key: song.family for key, song in self.manifest.songs().items()}
        training, held_out = (len({families[one.song] for one in side}) for side in (self.training, self.held_out))
        return training, held_out


def read_sung_songs(place: ShardLocation, fraction: float) -> SungSongs:
    """The songs of shards, divided as `train run` divides them by that fraction; those at other pitches only train.

    Raises UserError where too few have both a lead sheet and the features of their vocal.
    """
    manifest = read_manifest(place)
    families = {key: song.family for key, song in manifest.songs().items()}
    _check(place, manifest)
    songs = list(_usable(place, manifest))
    if (usable := len({families[song.song] for song in songs})) < FEWEST_SONGS:
        raise UserError(
            f"{place}: of {usable} songs with lead sheet and features of the vocal something is sung that has beats "
            f"and known chords; it takes {FEWEST_SONGS}. Add songs."
        )
    kept = validation_songs([families[song.song] for song in songs], fraction)
    best_last = sorted({song.song for song in songs}, key=lambda key: (key != families[key], key), reverse=True)
    best = {families[key]: key for key in best_last}
    return SungSongs(
        manifest,
        training=tuple(song for song in songs if families[song.song] not in kept),
        held_out=tuple(
            song for song in songs if families[song.song] in kept and best[families[song.song]] == song.song
        ),
    )


def _usable(place: ShardLocation, manifest: Manifest) -> Iterator[SungSong]:
    with progress(manifest.totals.segments, "beats", "segments") as done:
        for entry in manifest.shards:
            for sample in read_shard(place, entry, without=OPTIONAL - {VOCAL_FEATURES}):
                song = sung_song(sample)
                done.update(note=sample.meta.key)
                if song is not None:
                    yield song


def _check(place: ShardLocation, manifest: Manifest) -> None:
    """Raises UserError where the manifest says that too few songs have what is needed."""
    songs = manifest.songs().values()
    features = [song for song in songs if song.vocal_features]
    for held, what, way in (
        (features, "features of the vocal", "Run prep build-shards again with --set vocal_features=true."),
        (
            [song for song in features if song.lead_sheet],
            "features of the vocal and a lead sheet",
            "Run prep lead-sheets on the folder of songs, or write KEY_lead_sheet.txt, and prep build-shards again.",
        ),
    ):
        if (count := len({song.family for song in held})) < FEWEST_SONGS:
            total = len({song.family for song in songs})
            raise UserError(f"{place}: {count} of {total} songs have {what}; it takes {FEWEST_SONGS}. {way}")


def sung_song(sample: Sample) -> SungSong | None:
    """A sample to learn from; None without features, sheet, two beats of something sung, or a single known chord."""
    if sample.vocal_features is None or sample.lead_sheet is None:
        return None
    features = VocalFeatures.unpacked(sample.vocal_features)
    found = beats_by_rules(features) if features.sung else None
    if found is None or len(found) < 2:
        return None
    song = SungSong(
        sample.meta.song, features, sample.lead_sheet, found, told_beats(sample.lead_sheet, sample.meta.seconds)
    )
    return song if (song.example().chords != UNKNOWN).any() else None


def told_beats(sheet: LeadSheet, seconds: float) -> BeatTrack | None:
    """The beats of a sheet that lie in so many seconds; None where they are fewer than two, or bars have not four."""
    times, places = sheet.beat_times(), np.concatenate([[0], *(np.arange(bar.beats) for bar in sheet.bars)])[1:]
    inside = (times >= 0) & (times < seconds)
    if inside.sum() < 2 or any(bar.beats != BEATS_PER_BAR for bar in sheet.bars):
        return None
    return BeatTrack(times[inside], places[inside].astype(int), 1.0)

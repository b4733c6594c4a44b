"""Other texts, and features of the vocal, for samples that a shard holds already: their latents are not touched."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from common.canonical import sha256_of_file
from common.errors import UserError
from prep.building.sample import segment_sheet
from prep.building.segment_cache import SegmentCache
from prep.encoding.text import TextMaker
from prep.sources.scan import SongFiles
from shards.manifest import ShardEntry, SongEntry
from shards.schema import VOCAL_FEATURES, Sample
from shards.tar import read_samples
from shards.writer import ShardWriter


@dataclass(frozen=True)
class Changes:
    """What is to change in older shards."""

    songs: dict[str, SongFiles]
    """Songs of the folder that they hold, by key."""
    reworded: frozenset[str]
    """Keys of songs with other texts."""
    all_texts: bool
    """Text settings, the text encoder or its code changed, so that every text is made anew."""
    dropped: frozenset[str]
    """Keys of songs to leave out."""
    features: Mapping[str, SegmentCache]
    """The features of songs that get them, by key."""

    def touch(self, shard: ShardEntry) -> bool:
        """Whether a shard has to be written again."""
        return self.all_texts or any(self.touches(song) for song in shard.songs)

    def touches(self, song: SongEntry) -> bool:
        return song.key in self.reworded or song.key in self.dropped or song.key in self.features


def rewrite(writer: ShardWriter, out: Path, shard: ShardEntry, changes: Changes, texts: TextMaker) -> None:
    """Write an older shard again. A song whose new texts cannot be used keeps the old ones and is rejected.

    Raises UserError where the shard is missing or damaged.
    """
    path = out / shard.name
    if not path.is_file() or sha256_of_file(path) != shard.sha256:
        raise UserError(f"{path}: missing or damaged, so it cannot be changed. Mend it with: prep repair {out}")
    writer.rewrite(shard.name, _samples(read_samples(path), writer, changes, texts))


def _samples(samples: Iterable[Sample], writer: ShardWriter, changes: Changes, texts: TextMaker) -> Iterator[Sample]:
    for key, group in groupby(samples, key=lambda sample: sample.meta.song):
        song = list(group)
        if key in changes.dropped:
            continue
        if changes.all_texts or key in changes.reworded:
            with writer.rejecting(key):
                song = [reword(sample, changes.songs.get(key), texts, anew=changes.all_texts) for sample in song]
        if key in changes.features:
            song = with_features(song, changes.features[key])
        yield from song


def with_features(song: Sequence[Sample], cached: SegmentCache) -> list[Sample]:
    """A song's samples with the features of its vocal. Raises UserError where those are of other segments."""
    segments = list(cached.read())
    spans = [(one.audio.start_seconds, one.audio.samples) for one in segments]
    if spans != [(one.meta.start_seconds, one.meta.samples) for one in song]:
        raise UserError(
            f"{song[0].meta.name}: is cut at other places than in these shards, on another machine or by another "
            "library. Use --rebuild, or another folder."
        )
    return [
        replace(one, vocal_features=found.arrays[VOCAL_FEATURES]) for one, found in zip(song, segments, strict=True)
    ]


def reword(sample: Sample, song: SongFiles | None, texts: TextMaker, *, anew: bool) -> Sample:
    """A sample with a song's texts (its own where the song has gone); the prompt is embedded if it must be."""
    words = sample.meta if song is None else song
    lyrics = texts.lyrics(words.lyrics)
    if song is not None:
        sample = _with_lead_sheet(sample, song)
    meta = sample.meta.model_copy(update={"prompt": words.prompt, "lyrics": words.lyrics})
    if not anew and words.prompt == sample.meta.prompt:
        return replace(sample, meta=meta, lyrics=lyrics.ids, reduced_lyrics=lyrics.reduced)
    made = texts.prompt(words.prompt, seconds=meta.seconds)
    meta = meta.model_copy(update={"tag_orders": made.orders})
    sample = replace(sample, meta=meta, text=made.text, text_mask=made.mask)
    return replace(sample, lyrics=lyrics.ids, reduced_lyrics=lyrics.reduced)


def _with_lead_sheet(sample: Sample, song: SongFiles) -> Sample:
    meta = sample.meta.model_copy(update={"lead_sheet_sha256": song.lead_sheet_sha256})
    return replace(sample, meta=meta, lead_sheet=segment_sheet(song.lead_sheet, meta))

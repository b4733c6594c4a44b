"""A song's sound and its texts, put together as the samples of a shard."""

from collections.abc import Sequence

from prep.encode import EncodedSegment
from prep.identity import KnownSong
from prep.text import LyricIds, PromptStates
from shards.schema import Sample, SegmentMeta, sample_key


def make_samples(
    known: KnownSong, segments: Sequence[EncodedSegment], prompt: PromptStates, lyrics: LyricIds
) -> list[Sample]:
    """One sample per segment, in order; all of them have the song's whole prompt and lyrics."""
    return [_sample(known, number, segment, prompt, lyrics) for number, segment in enumerate(segments)]


def _sample(known: KnownSong, number: int, segment: EncodedSegment, prompt: PromptStates, lyrics: LyricIds) -> Sample:
    song = known.song
    meta = SegmentMeta(
        **dict(segment.audio),
        key=sample_key(song.key, number),
        song=song.key,
        name=song.name,
        segment=number,
        prompt=song.prompt,
        tag_orders=prompt.orders,
        lyrics=song.lyrics,
        sources=known.sources,
    )
    return Sample(
        meta,
        vocal=segment.vocal,
        activity=segment.activity,
        text=prompt.text,
        text_mask=prompt.mask,
        lyrics=lyrics.ids,
        inst=segment.inst,
        mix=segment.mix,
    )

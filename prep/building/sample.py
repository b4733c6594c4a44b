"""A song's sound and its texts, put together as the samples of a shard."""

from collections.abc import Iterable

import numpy as np

from common.music.lead_sheet import LeadSheet
from models.protocols import LyricTokens
from prep.building.identity import HashedSong
from prep.encoding.encode import EncodedSegment
from prep.encoding.text import PromptStates, TextMaker
from shards.schema import REDUCED_LYRICS, Sample, SegmentAudio, SegmentMeta, sample_key


def make_samples(
    hashed: HashedSong,
    segments: Iterable[EncodedSegment],
    texts: TextMaker,
    lyrics: LyricTokens,
    *,
    sound_sha256: str | None = None,
) -> list[Sample]:
    """One sample per segment, in order; all of them have the song's whole prompt and lyrics, and its lead sheet
    where they lie in it."""

    def prompt(segment: EncodedSegment) -> PromptStates:
        return texts.prompt(hashed.song.prompt, seconds=segment.audio.seconds)

    return [_sample(hashed, *numbered, prompt(numbered[1]), lyrics, sound_sha256) for numbered in enumerate(segments)]


def _sample(
    hashed: HashedSong,
    number: int,
    segment: EncodedSegment,
    prompt: PromptStates,
    lyrics: LyricTokens,
    sound_sha256: str | None,
) -> Sample:
    song = hashed.song
    meta = SegmentMeta(
        **dict(segment.audio),
        key=sample_key(song.key, number),
        song=song.key,
        name=song.name,
        segment=number,
        prompt=song.prompt,
        tag_orders=prompt.orders,
        lyrics=song.lyrics,
        sources=hashed.sources,
        sound_sha256=sound_sha256,
        lead_sheet_sha256=song.lead_sheet_sha256,
        parent=song.parent,
        semitones=song.semitones,
    )
    texts = {"text": prompt.text, "text_mask": prompt.mask, **lyric_arrays(lyrics)}
    return Sample.of(meta, {**segment.arrays, **texts}, segment_sheet(song.lead_sheet, segment.audio))


def lyric_arrays(lyrics: LyricTokens) -> dict[str, np.ndarray]:
    """What a sample holds of its lyrics, by the names that it has for them."""
    reduced = {name: lyrics.reduced[content] for name, content in REDUCED_LYRICS.items() if content in lyrics.reduced}
    return {"lyrics": lyrics.ids, **reduced}


def segment_sheet(sheet: LeadSheet | None, audio: SegmentAudio) -> LeadSheet | None:
    """A song's lead sheet where a segment lies in it."""
    return None if sheet is None else sheet.cut(audio.start_seconds, audio.start_seconds + audio.seconds)

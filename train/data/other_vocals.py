"""Vocals that a clip might have had instead of its own: later, at another pitch, another song's."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.flow.conditioning import VocalSource
from shards.schema import Sample
from train.data.clips import Choice, ClipMaker


def derangement(count: int, generator: torch.Generator) -> list[int]:
    """For each of `count` songs another one; every song is taken once."""
    circle = torch.randperm(count, generator=generator).tolist()
    follower = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return [follower[song] for song in range(count)]


def fitted(source: VocalSource, frames: int) -> VocalSource:
    """`source`, tiled and cut to so many frames."""
    tiles = -(-frames // source.activity.shape[-1])
    sheet = source.lead_sheet

    def tiled(value: Tensor) -> Tensor:
        return value.repeat(*[1] * (value.ndim - 1), tiles)[..., :frames]

    return replace(
        source,
        vocal=tiled(source.vocal),
        conditioner_input=tiled(source.conditioner_input),
        activity=tiled(source.activity),
        latents=None if source.latents is None else tiled(source.latents),
        lead_sheet=None if sheet is None else sheet.repeat(1, tiles, 1)[:, :frames],
    )


def shifted(source: VocalSource) -> VocalSource:
    """`source`, later by half of its length; its end becomes its beginning."""
    half = source.activity.shape[-1] // 2
    return replace(
        source,
        vocal=source.vocal.roll(half, dims=-1),
        conditioner_input=source.conditioner_input.roll(half, dims=-1),
        activity=source.activity.roll(half, dims=-1),
        latents=None if source.latents is None else source.latents.roll(half, dims=-1),
        lead_sheet=None if source.lead_sheet is None else source.lead_sheet.roll(half, dims=1),
    )


def in_time_with(song: Sample, copies: Sequence[Sample]) -> list[Sample]:
    """Copies of a song that prep cut where it cut the song: within half a frame, and no more than one shorter."""
    half_frame = song.meta.seconds / song.meta.frames / 2
    return [
        copy
        for copy in copies
        if abs(copy.meta.start_seconds - song.meta.start_seconds) <= half_frame
        and copy.meta.frames >= song.meta.frames - 1
    ]


def vocal_under(choice: Choice, copy: Sample, maker: ClipMaker) -> VocalSource:
    """The vocal that a copy in time with a song has where a clip of that was cut."""
    cut = choice.cut
    there = replace(cut, frames=min(cut.frames, copy.meta.frames - cut.start))
    return fitted(maker.without_noise(maker.assemble([copy], [replace(choice, cut=there)])).source, cut.frames)

"""Songs that are longer than the network takes at once: overlapping windows, and one result from what they give.

T latent frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 10
"""Two neighbours share, and cross-fade over, one in ten of the longest window's frames: 24 s of 240, so that no bar is
decided by one of them alone."""


@dataclass(frozen=True)
class LatentWindow:
    """Frames from `start` to before `end`."""

    start: int
    end: int

    @property
    def frames(self) -> slice:
        """The window as an index of the last axis."""
        return slice(self.start, self.end)


def plan_windows(frames: int, *, longest: int, overlap: int | None = None) -> tuple[LatentWindow, ...]:
    """As few windows as cover all frames, of one length, each sharing `overlap` frames (or some more) with the next.

    No frame lies in three windows. `longest`, what the network takes at once, must be three overlaps or more; an
    overlap is a tenth of it by default.
    """
    overlap = longest // OVERLAP if overlap is None else overlap
    assert 3 * overlap <= longest, f"windows of {longest} frames cannot share {overlap}"
    if frames <= longest:
        return (LatentWindow(0, frames),)
    count = math.ceil((frames - overlap) / (longest - overlap))
    length = math.ceil((frames + (count - 1) * overlap) / count)
    starts = [number * (frames - length) // (count - 1) for number in range(count)]
    return tuple(LatentWindow(start, start + length) for start in starts)


def cross_fade(pieces: Sequence[Tensor], windows: Sequence[LatentWindow]) -> Tensor:
    """What the windows gave, [..., T of a window] each, as one [..., T].

    Where two overlap, one gives way to the other linearly; where they agree, the result is what both say, bit by bit.
    """
    joined = pieces[0].new_empty((*pieces[0].shape[:-1], windows[-1].end))
    done = 0
    for piece, window in zip(pieces, windows, strict=True):
        shared = done - window.start
        ramp = (torch.arange(shared, device=piece.device, dtype=piece.dtype) + 0.5) / max(shared, 1)
        joined[..., window.start : done].lerp_(piece[..., :shared], ramp)
        joined[..., done : window.end] = piece[..., shared:]
        done = window.end
    return joined

"""Windows over long songs: they cover every frame, none is in three, and what they agree on stays as it is."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.bases import ACE_STEP_1
from models.flow.windows import OVERLAP, LatentWindow, cross_fade, plan_windows

PLANS = st.tuples(st.integers(1, 400), st.integers(3, 90), st.integers(1, 30)).filter(lambda p: 3 * p[2] <= p[1])


@settings(deadline=None, max_examples=50)
@given(PLANS)
def test_windows_cover_a_song_and_share_what_they_should(plan):
    frames, longest, overlap = plan
    windows = plan_windows(frames, longest=longest, overlap=overlap)
    assert (windows[0].start, windows[-1].end) == (0, frames)
    assert len({window.end - window.start for window in windows}) == 1
    assert all(window.end - window.start <= longest for window in windows)
    for one, other in pairwise(windows):
        assert one.end - other.start >= overlap
    for one, third in zip(windows, windows[2:], strict=False):
        assert one.end <= third.start
    assert (len(windows) == 1) == (frames <= longest)


@settings(deadline=None, max_examples=50)
@given(PLANS)
def test_what_windows_agree_on_passes_unchanged(plan):
    frames, longest, overlap = plan
    windows = plan_windows(frames, longest=longest, overlap=overlap)
    known = torch.randn(2, frames)
    assert torch.equal(cross_fade([known[..., window.frames] for window in windows], windows), known)


def test_one_window_gives_way_to_the_next_linearly():
    pieces = [torch.zeros(6), torch.ones(6)]
    expected = torch.tensor([0, 0, 0, 0.5 / 3, 1.5 / 3, 2.5 / 3, 1, 1, 1])
    torch.testing.assert_close(cross_fade(pieces, [LatentWindow(0, 6), LatentWindow(3, 9)]), expected)


@settings(deadline=None, max_examples=50)
@given(PLANS.map(lambda plan: (min(plan[0], 8 * plan[1]), *plan[1:])))  # it lays each window over all others
def test_the_weights_of_a_frame_sum_to_one(plan):
    frames, longest, overlap = plan
    windows = plan_windows(frames, longest=longest, overlap=overlap)
    weights = [
        cross_fade([torch.full((w.end - w.start,), float(w is one)) for w in windows], windows) for one in windows
    ]
    torch.testing.assert_close(torch.stack(weights).sum(0), torch.ones(frames))
    for window, weight in zip(windows, weights, strict=True):
        assert weight[window.frames].min() > 0
        assert not weight[: window.start].any()
        assert not weight[window.end :].any()


def test_four_minutes_are_one_window_and_six_are_two():
    longest = ACE_STEP_1.longest_frames
    assert longest == 2584
    assert plan_windows(longest, longest=longest) == (LatentWindow(0, longest),)
    one, other = plan_windows(longest * 3 // 2, longest=longest)
    assert one.end - other.start - longest // OVERLAP in (0, 1)
    assert one.end < longest

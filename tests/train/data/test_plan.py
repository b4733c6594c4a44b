from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.plan import Segment, batches_per_epoch, clip_frames, plan_epoch

SEGMENTS = tuple(
    Segment(f"song{n}_{part:03d}", f"song{n}", frames, n // 3)
    for n in range(60)
    for part, frames in enumerate([100, 30 + n % 7])
)


def planned(seed=0, epoch=0, segments=SEGMENTS, batch_size=4, crop_frames=64):
    return plan_epoch(segments, seed=seed, epoch=epoch, batch_size=batch_size, crop_frames=crop_frames)


def keys_of(windows):
    return [key for window in windows for batch in window.batches for key in batch]


def test_a_plan_depends_on_seed_and_epoch_alone():
    assert planned() == planned()
    assert planned(segments=tuple(reversed(SEGMENTS))) != planned(epoch=1)
    assert len({str(planned(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.integers(1, 400), min_size=1, max_size=60),
    batch_size=st.integers(1, 5),
    crop=st.integers(1, 300),
    epoch=st.integers(0, 3),
)
def test_every_segment_is_used_once_among_equals_after_it_was_read(frames, batch_size, crop, epoch):
    segments = [Segment(f"s{n}", f"s{n}", length, n // 3) for n, length in enumerate(frames)]
    windows = planned(0, epoch, segments, batch_size, crop)
    assert Counter(keys_of(windows)) == Counter(segment.key for segment in segments)
    by_key = {segment.key: segment for segment in segments}
    read: set[int] = set()
    for window in windows:
        read |= set(window.shards)
        for batch in window.batches:
            assert len(batch) <= batch_size
            assert len({clip_frames(by_key[key].frames, crop) for key in batch}) == 1
            assert {by_key[key].shard for key in batch} <= read
    count = sum(len(window.batches) for window in windows)
    assert count == batches_per_epoch(segments, batch_size=batch_size, crop_frames=crop)


def test_windows_bound_how_many_shards_lie_open():
    windows = planned()
    assert [len(window.shards) for window in windows] == [8, 8, 4]
    assert sorted(shard for window in windows for shard in window.shards) == list(range(20))


@pytest.mark.parametrize(
    ("frames", "clip"), [(2600, 2584), (2584, 2584), (2583, 2560), (323, 320), (37, 36), (15, 15), (1, 1)]
)
def test_clips_shorter_than_the_crop_lose_less_than_an_eighth(frames, clip):
    assert clip_frames(frames, 2584) == clip
    assert clip > frames * 7 / 8 or clip == 2584

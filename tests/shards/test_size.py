"""What a cache takes on the disk, with texts as wide as the published encoder's: the bounds of docs/shards.md."""

from dataclasses import replace

import numpy as np
import pytest

from common.bases import ACE_STEP_1

LATENTS = ACE_STEP_1.latents

TAG_ORDERS, TEXT_WIDTH = 4, 768
LYRIC_TOKENS = 600


@pytest.fixture
def minute(make_sample):
    """minute(targets, tokens): a segment of 60 s, with a prompt of so many tokens and many verses."""

    def make(targets, tokens, *, seconds=60):
        sample = make_sample(frames=LATENTS.frames_of(seconds * LATENTS.sample_rate_hz), targets=targets)
        words = "word, " * (tokens // 2)  # a comma is a token too
        texts = {"prompt": words, "tag_orders": (words,) * TAG_ORDERS, "lyrics": "la la\n" * (LYRIC_TOKENS // 4)}
        return replace(
            sample,
            meta=sample.meta.model_copy(update=texts),
            text=np.ones((TAG_ORDERS, tokens, TEXT_WIDTH), np.float16),
            text_mask=np.ones((TAG_ORDERS, tokens), np.bool_),
            lyrics=np.ones(LYRIC_TOKENS, np.int32),
        )

    return make


def taken_by(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("targets", "tokens", "within"),
    [
        (("inst", "mix"), 60, True),
        (("inst", "mix"), 80, True),
        (("inst", "mix"), 90, False),
        (("inst",), 50, True),
        (("inst",), 60, False),
    ],
)
def test_a_minute_takes_twice_its_latents_up_to_80_tokens_or_50_with_one_target(
    tmp_path, minute, write, targets, tokens, within
):
    sample = minute(targets, tokens)
    write(tmp_path, [[sample]])
    taken = taken_by(tmp_path)
    sizes = {name: array.nbytes for name, array in sample.arrays().items()}
    assert taken <= 1.25 * sum(sizes.values())
    assert (taken <= 2.1 * sum(sizes[part] for part in ("vocal", *targets))) == within


def test_ten_seconds_take_little_more_than_their_arrays(tmp_path, minute, write):
    sample = minute(("inst", "mix"), 6, seconds=10)
    write(tmp_path, [[sample]])
    assert taken_by(tmp_path) <= 1.25 * sum(array.nbytes for array in sample.arrays().values())

"""Made-up samples: random latents of any length, under a fingerprint of no network."""

from collections.abc import Callable

import numpy as np
import pytest

from common.latents import FRAME_SAMPLES, SAMPLE_RATE_HZ
from shards.fingerprint import Fingerprint
from shards.schema import PartLevels, Sample, SegmentMeta, Source, sample_key


def random_sample(song: str = "ballad", segment: int = 0, *, frames: int = 12, targets=("inst", "mix")) -> Sample:
    """A good sample whose numbers depend on its key alone."""
    rng = np.random.default_rng(list(sample_key(song, segment).encode()))

    def latents() -> np.ndarray:
        return rng.normal(size=(8, 16, frames)).astype(np.float16)

    meta = SegmentMeta(
        key=sample_key(song, segment),
        song=song,
        name=f"album/{song}",
        segment=segment,
        prompt="folk, guitar",
        tag_orders=("folk, guitar", "guitar, folk"),
        lyrics="[instrumental]",
        sources=(Source(part="vocal", file=f"{song}_vocal.wav", sha256="0" * 64),),
        start_seconds=segment * 2.0,
        samples=frames * FRAME_SAMPLES - 5,
        seconds=(frames * FRAME_SAMPLES - 5) / SAMPLE_RATE_HZ,
        frames=frames,
        lufs=PartLevels(vocal=-20.0 - segment, mix=-17.0),
        gain_db=3.0,
        peak_limited=False,
        separator=None,
        derived="inst",
        residual_db=None,
        bleed_db=None,
    )
    return Sample(
        meta,
        vocal=latents(),
        activity=np.linspace(0, 1, frames, dtype=np.float16),
        text=rng.normal(size=(2, 5, 6)).astype(np.float16),
        text_mask=np.array([[True] * 5, [True] * 4 + [False]]),
        lyrics=np.array([261, 259, 1, 2], dtype=np.int32),
        **{name: latents() for name in targets},
    )


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    return random_sample


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint(
        settings={"loudness": {"target_lufs": -14.0}, "device": "cpu"}, networks={"codec": "a" * 64}, steps={"cut": 1}
    )

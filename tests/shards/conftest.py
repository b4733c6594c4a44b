"""Made-up samples: random latents of any length, under a fingerprint of no network."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.bases import ACE_STEP_1
from common.music.lead_sheet import LeadSheet
from common.music.notation import read_lead_sheet
from shards.fingerprint import Fingerprint
from shards.manifest import Manifest
from shards.reader import read_manifest
from shards.schema import PartLevels, Sample, SegmentMeta, Source, sample_key
from shards.writer import ShardWriter

LATENTS = ACE_STEP_1.latents


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
        samples=frames * LATENTS.frame_samples - 5,
        seconds=(frames * LATENTS.frame_samples - 5) / LATENTS.sample_rate_hz,
        frames=frames,
        lufs=PartLevels(vocal=-20.0 - segment, mix=-17.0),
        gain_db=3.0,
        peak_limited=False,
        separator=None,
        derived="inst",
        residual_db=None,
        bleed_db=None,
    )
    arrays = {
        "vocal": latents(),
        "activity": np.linspace(0, 1, frames, dtype=np.float16),
        "text": rng.normal(size=(2, 5, 6)).astype(np.float16),
        "text_mask": np.array([[True] * 5, [True] * 4 + [False]]),
        "lyrics": np.array([261, 259, 1, 2], dtype=np.int32),
    }
    return Sample.of(meta, arrays | {name: latents() for name in targets})


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    return random_sample


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint(
        settings={"loudness": {"target_lufs": -14.0}, "device": "cpu"}, networks={"codec": "a" * 64}, steps={"cut": 1}
    )


@pytest.fixture
def songs() -> list[list[Sample]]:
    """Four songs of three, one, two and two segments."""
    counts = {"a": 3, "b": 1, "c": 2, "d": 2}
    return [[random_sample(name, n, frames=9 + n) for n in range(count)] for name, count in counts.items()]


@pytest.fixture
def write(fingerprint: Fingerprint) -> Callable[..., Manifest]:
    """write(folder, songs, shard_samples=4, ...) writes shards and gives the manifest as it is read back."""

    def run(out: Path, songs: Iterable[Sequence[Sample]], **options: Any) -> Manifest:
        with ShardWriter(out, fingerprint=fingerprint, targets=("inst", "mix"), **options) as writer:
            for song in songs:
                writer.add(song)
        return read_manifest(out)

    return run


@pytest.fixture
def assert_same() -> Callable[[Sample, Sample], None]:
    """assert_same(read, written): note and arrays are equal, dtypes too."""

    def check(read: Sample, written: Sample) -> None:
        assert read.meta == written.meta
        assert read.arrays().keys() == written.arrays().keys()
        for name, array in written.arrays().items():
            assert read.arrays()[name].dtype == array.dtype
            np.testing.assert_array_equal(read.arrays()[name], array)

    return check


@pytest.fixture
def sheet() -> LeadSheet:
    """Four bars of 4/4 from before the sound's start on, with two chords in the third."""
    return read_lead_sheet("key: A minor ~83\nbpm: 112 ~70\noffset: -0.35\n| Am | F~62 | C . . G | @108 Em7 |\n")

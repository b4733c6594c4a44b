"""Base models as values: what they name is consistent, and files say which one they belong to."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.bases import ACE_STEP_1, BASES, BaseOrigin, check_statistics
from common.latents import LatentLayout, LatentStatistics

ROOT = Path(__file__).resolve().parents[2]
OTHER = replace(
    ACE_STEP_1,
    name="other",
    latents=LatentLayout(sample_rate_hz=48_000, frame_samples=1920, channels=64, rows=1),
    shards_version=2,
)


@pytest.fixture
def other(monkeypatch):
    """A base model of 25 frames a second, of 64 numbers each."""
    monkeypatch.setitem(BASES, OTHER.name, OTHER)
    return OTHER


@pytest.mark.parametrize("spec", BASES.values(), ids=BASES)
def test_every_part_has_its_files(spec):
    assert set(vars(spec.parts).values()) == spec.files.keys()
    assert set(spec.parts.decoders) | set(spec.parts.encoders) | {spec.parts.transformer} == spec.files.keys()
    assert all(spec.weights_file(part).endswith(".safetensors") for part in spec.files)


@pytest.mark.parametrize("samples", [1, 4095, 4096, 4097, 44_100 * 240])
def test_frames_hold_every_sample(samples):
    frames = ACE_STEP_1.latents.frames_of(samples)
    assert (frames - 1) * 4096 < samples <= frames * 4096


def test_a_frame_rate_is_the_bases_own():
    assert ACE_STEP_1.latents.frames_per_second == pytest.approx(10.7666, abs=1e-4)
    assert OTHER.latents.frames_per_second == 25
    assert (ACE_STEP_1.longest_frames, OTHER.longest_frames) == (2584, 6000)


def test_the_first_base_is_written_as_when_it_was_the_only_one():
    written = BaseOrigin(family="tiny", checkpoint="tiny").model_dump(mode="json")
    assert written == {"family": "tiny", "checkpoint": "tiny", "revision": None}
    assert BaseOrigin.model_validate(written).spec is ACE_STEP_1


def test_another_base_is_named_and_read_back(other):
    written = json.loads(BaseOrigin(model="other").model_dump_json())
    assert written["model"] == "other"
    assert BaseOrigin.model_validate(written).spec is other


def test_a_base_that_is_not_known_is_refused():
    with pytest.raises(ValidationError, match="future is a base model that this Backline does not know"):
        BaseOrigin(model="future")


def test_statistics_have_the_shape_of_the_bases_latents():
    statistics = LatentStatistics(silence=((0.0,),) * 64, mean=(0.0,) * 64, std=(1.0,) * 64)
    check_statistics(statistics, OTHER)
    check_statistics(None, ACE_STEP_1)
    with pytest.raises(ValueError, match="64 channels of 1 rows, latents of ace-step-1 have 8 channels of 16 rows"):
        check_statistics(statistics, ACE_STEP_1)


def test_names_of_parts_stand_in_the_spec_alone():
    """As literals of code; docstrings may speak of them, and a config that is published quotes them."""
    literals = re.compile("|".join(f'"{part}"' for spec in BASES.values() for part in spec.files))
    rooms = ("common", "shards", "prep", "models", "train", "infer", "demo", "recipe", "benchmarks")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert {path.name for path in paths if literals.search(path.read_text(encoding="utf-8"))} == {"bases.py"}

"""Shards of made-up latents, written by the real writer, and configs small enough for seconds on a CPU."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.bases import ACE_STEP_1, ACE_STEP_15, BaseOrigin
from common.music.lead_sheet import LeadSheet
from shards.fingerprint import Fingerprint
from shards.schema import PartLevels, Sample, SegmentMeta, SslName, Target, sample_key
from shards.writer import ShardWriter
from train.config import TrainingConfig

LATENTS = ACE_STEP_1.latents

TINY_BASE = BaseOrigin(family="tiny", checkpoint="tiny")
TEXT_WIDTH = 768  # of the tiny base
FEATURE_SHAPES: dict[SslName, tuple[int, int]] = {"mert": (75, 1024), "mhubert": (50, 768)}  # frames a second, width


def made_sample(
    song: str,
    segment: int,
    frames: int,
    targets: Sequence[Target] = ("inst", "mix"),
    features: Sequence[SslName] = (),
) -> Sample:
    """A segment of random latents whose mix is vocal + inst, with two tag orders of different length."""
    random = np.random.default_rng(_number(song, segment))
    vocal, inst = random.standard_normal((2, 8, 16, frames))
    text_mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    meta = SegmentMeta(
        key=sample_key(song, segment),
        song=song,
        name=song,
        segment=segment,
        prompt="piano, drums",
        tag_orders=("piano, drums", "drums, piano"),
        lyrics="[instrumental]",
        start_seconds=0.0,
        samples=frames * LATENTS.frame_samples,
        seconds=frames / LATENTS.frames_per_second,
        frames=frames,
        lufs=PartLevels(vocal=-20.0),
        gain_db=0.0,
        peak_limited=False,
        separator=None,
        derived=None,
        residual_db=None,
        bleed_db=None,
        sources=(),
    )
    held = {"inst": inst.astype(np.float16), "mix": (vocal + inst).astype(np.float16)}
    arrays = {
        "vocal": vocal.astype(np.float16),
        "activity": random.choice([0.0, 0.5, 1.0], frames).astype(np.float16),
        "text": (random.standard_normal((2, 5, TEXT_WIDTH)) * text_mask[:, :, None]).astype(np.float16),
        "text_mask": text_mask,
        "lyrics": np.array([261, 259, 6688, 2], dtype=np.int32),
        **{target: held[target] for target in targets},
        **_made_features(random, frames / LATENTS.frames_per_second, targets, features),
    }
    return Sample.of(meta, arrays)


def _made_features(
    random: np.random.Generator, seconds: float, targets: Sequence[Target], names: Sequence[SslName]
) -> dict[str, Any]:
    found = {}
    for name in names:
        rate_hz, width = FEATURE_SHAPES[name]
        for target in targets:
            made = random.standard_normal((round(rate_hz * seconds), width), dtype=np.float32)
            found[f"{target}_{name}"] = made.astype(np.float16)
    return found


def _number(song: str, segment: int) -> int:
    return int.from_bytes(f"{song}/{segment}".encode(), "big") % 2**32


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """make_sample("song", 0, 24) is a segment of 24 frames."""
    return made_sample


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """make_shards({"song": [frames of each segment]}) writes tmp_path/shards and returns it."""

    def make(
        songs: dict[str, list[int]],
        *,
        targets: Sequence[Target] = ("inst", "mix"),
        features: Sequence[SslName] = (),
        shard_samples: int = 4,
        base: BaseOrigin | None = TINY_BASE,
        lead_sheets: Mapping[str, LeadSheet] | None = None,
        folder: str = "shards",
        separated: Collection[str] = (),
    ) -> Path:
        fingerprint = Fingerprint(settings={"text": {"lyrics_language": "ja"}}, networks={}, steps={})
        out = tmp_path / folder
        silence = np.full((8, 16), 0.25)
        with ShardWriter(
            out, fingerprint=fingerprint, targets=targets, base=base, shard_samples=shard_samples, silence=silence
        ) as writer:
            for song, lengths in songs.items():
                sheet = (lead_sheets or {}).get(song)
                samples = [made_sample(song, n, frames, targets, features) for n, frames in enumerate(lengths)]
                if song in separated:
                    samples = [
                        replace(one, meta=one.meta.model_copy(update={"separator": "htdemucs"})) for one in samples
                    ]
                writer.add([replace(sample, lead_sheet=sheet) for sample in samples])
        return out

    return make


@pytest.fixture
def make_source_song() -> Callable[..., Sample]:
    """make_source_song("song", 25) is a segment of a base with a slot for a source: random latents of 25 frames."""

    def make(song: str, frames: int, segment: int = 0) -> Sample:
        like = made_sample(song, segment, 24)
        random = np.random.default_rng([*song.encode(), segment, frames])

        def drawn(*shape: int) -> np.ndarray:
            return random.standard_normal(shape).astype(np.float16)

        layout = ACE_STEP_15.latents
        sizes = {"samples": frames * layout.frame_samples, "seconds": frames / layout.frames_per_second}
        meta = like.meta.model_copy(update={"frames": frames, **sizes})
        width, latents = ACE_STEP_15.text_width, (layout.channels, layout.rows, frames)
        arrays = {
            "vocal": drawn(*latents), "inst": drawn(*latents), "activity": np.ones(frames, np.float16),
            "text": like.text_mask[..., None] * drawn(2, 5, width), "text_mask": like.text_mask,
            "lyrics": drawn(6, width), "lyrics_structure": drawn(4, width), "lyrics_instrumental": drawn(3, width),
        }  # fmt: skip
        return Sample.of(meta, arrays)

    return make


@pytest.fixture
def make_source_shards(tmp_path: Path, make_source_song) -> Callable[..., Path]:
    """make_source_shards({"song": [frames of each segment]}) writes tmp_path/source_shards and returns it."""

    def make(songs: dict[str, list[int]]) -> Path:
        fingerprint, out = Fingerprint(settings={}, networks={}, steps={}), tmp_path / "source_shards"
        base = BaseOrigin(model=ACE_STEP_15.name, family="tiny15", checkpoint="tiny15")
        silence = np.full((64, 1), 0.1)
        with ShardWriter(
            out, fingerprint=fingerprint, targets=("inst",), base=base, silence=silence, shard_samples=4
        ) as writer:
            for song, lengths in songs.items():
                writer.add([make_source_song(song, frames, number) for number, frames in enumerate(lengths)])
        return out

    return make


@pytest.fixture
def song_lengths() -> dict[str, list[int]]:
    """Frames of eleven segments of nine songs, of three lengths: four shards."""
    return {f"song{number}": [24, 17] if number < 2 else [24 + 5 * (number % 2)] for number in range(9)}


@pytest.fixture
def song_shards(make_shards: Callable[..., Path], song_lengths: dict[str, list[int]]) -> Path:
    """Those songs as shards of ACE-Step v1."""
    return make_shards(song_lengths)


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., TrainingConfig]:
    """tiny_config(shards, "controlnet", max_steps=3): everything small, a path for runs in tmp_path."""

    def make(
        shards: Path, mode: str = "image2image", *, accompaniment: dict | None = None, **settings
    ) -> TrainingConfig:
        conditioning = {
            "mode": mode,
            "control_encoder_depth": 2,
            "control_encoder_dim": 128,
            "injection_layers": (0, 3),
            **(accompaniment or {}),
        }
        values: dict[str, Any] = {
            "lora": {"r": 4, "lora_alpha": 4, "lora_dropout": 0.1},
            "accompaniment": conditioning,
            "dataset_path": str(shards),
            "crop_seconds": 2.0,
            "learning_rate": 1e-3,
            "max_steps": 6,
            "warmup_steps": 0,
            "batch_size": 2,
            "accumulate_grad_batches": 2,
            "gradient_checkpointing": False,
            "logger_dir": str(tmp_path / "runs"),
            "exp_name": mode,
            **settings,
        }
        return TrainingConfig(**values)

    return make

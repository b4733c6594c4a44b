"""Made-up music: a breathy sine with pauses is the vocal, noise over a low tone the band."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.audio.disk_wave import DiskWave
from common.audio.wave import write_audio
from common.bases import ACE_STEP_1
from common.canonical import sha256_of_file
from models.protocols import LatentCodec
from prep.building.build import BuildReport, build_shards
from prep.config import PrepConfig
from prep.encoding.encode import SongEncoder, silence_latent
from prep.sources.segment import Parts

LATENTS = ACE_STEP_1.latents


def make_parts(seconds: float, *, seed: int = 0) -> Parts:
    """Half a second sung, a quarter of a second pause, and so on, over a steady band; on the grid of 16-bit files."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * LATENTS.sample_rate_hz)) / LATENTS.sample_rate_hz
    tone = np.sin(2 * np.pi * (220 + 20 * seed) * t)
    voice = (0.3 * tone + 0.02 * rng.normal(size=t.size)) * ((t % 0.75) < 0.5)
    band = 0.05 * rng.normal(size=(2, t.size)) + 0.1 * np.sin(2 * np.pi * 110 * t)
    vocal, inst = (np.rint(wave * 32768).astype(np.float32) / 32768 for wave in (np.stack([voice, voice]), band))
    return Parts(vocal, inst, vocal + inst)


def write_song(
    folder: Path,
    key: str,
    *,
    parts: Sequence[str] = ("vocal", "inst", "mix"),
    seconds: float = 1.5,
    seed: int = 0,
    prompt: str | None = "folk, guitar, slow",
    rate_hz: int = LATENTS.sample_rate_hz,
) -> None:
    """Write stems as KEY_part.wav, and with parts=("song",) the mix alone as KEY.wav."""
    folder.mkdir(parents=True, exist_ok=True)
    music = make_parts(seconds, seed=seed)
    for part in parts:
        name = f"{key}.wav" if part == "song" else f"{key}_{part}.wav"
        wave = music.mix if part == "song" else getattr(music, part)
        write_audio(folder / name, wave, rate_hz, subtype="PCM_16")
    if prompt is not None:
        (folder / f"{key}_prompt.txt").write_text(prompt, encoding="utf-8")


SILENCES: dict[str, np.ndarray] = {}
"""Latents of silence by the bytes of the codec's weights."""


@pytest.fixture(scope="module", autouse=True)
def _silence_once() -> Iterator[None]:
    """Each codec encodes its ten seconds of silence once, not once a build: they take longer than the songs here."""

    def once(codec: LatentCodec) -> np.ndarray:
        weights = hashlib.sha256()
        for name, tensor in codec.state_dict().items():
            weights.update(f"{name} {tensor.dtype}".encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
        if weights.hexdigest() not in SILENCES:
            SILENCES[weights.hexdigest()] = silence_latent(codec)
        return SILENCES[weights.hexdigest()]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prep.building.build.silence_latent", once)
        yield


@pytest.fixture
def music() -> Callable[..., Parts]:
    return make_parts


@pytest.fixture
def disk_wave() -> Callable[[np.ndarray], DiskWave]:
    """disk_wave(wave) holds that wave [2, N]."""
    return lambda wave: DiskWave(ACE_STEP_1.latents.sample_rate_hz).extend([wave])


@pytest.fixture(scope="session")
def song() -> Callable[..., None]:
    return write_song


@pytest.fixture(scope="session")
def config() -> PrepConfig:
    return PrepConfig()


@pytest.fixture(scope="session")
def build_in(config: PrepConfig) -> Callable[..., BuildReport]:
    """build_in(folder, "shards", ...) builds folder/raw into folder/shards in this process."""

    def run(
        folder: Path,
        out: str = "shards",
        *,
        raw: str = "raw",
        config: PrepConfig = config,
        workers: int = 1,
        rebuild: bool = False,
        checkpoint: str = "tiny",
        **options: Any,
    ) -> BuildReport:
        return build_shards(
            folder / raw,
            folder / out,
            config,
            checkpoint=checkpoint,
            workers=workers,
            devices=("cpu",),
            rebuild=rebuild,
            **options,
        )

    return run


@pytest.fixture
def build(build_in: Callable[..., BuildReport], tmp_path: Path) -> Callable[..., BuildReport]:
    """build("shards", ...) builds tmp_path/raw into tmp_path/shards in this process."""
    return partial(build_in, tmp_path)


@pytest.fixture
def encoded_songs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the songs that went through the networks."""
    names: list[str] = []
    prepare = SongEncoder.prepare
    monkeypatch.setattr(
        SongEncoder, "prepare", lambda self, song, *rest: names.append(song.name) or prepare(self, song, *rest)
    )
    return names


@pytest.fixture
def hashes() -> Callable[[Path], dict[str, str]]:
    """hashes(folder) gives the SHA-256 of each file in it."""

    def run(folder: Path) -> dict[str, str]:
        return {path.name: sha256_of_file(path) for path in sorted(folder.iterdir()) if path.name != ".build"}

    return run

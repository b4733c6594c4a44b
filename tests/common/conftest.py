"""Sounds as files of every kind, as bytes on which a test can operate."""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """encoded("mp3", "-q:a", "2", seed=1): two seconds of noise and quiet, as ffmpeg writes them with those options."""
    folder = tmp_path_factory.mktemp("encoded")

    @cache
    def encode(
        suffix: str,
        *options: str,
        seed: int = 0,
        quiet_start: bool = False,
        seconds: float = 2.0,
        rate_hz: int = 44_100,
        channels: int = 2,
    ) -> bytes:
        time = np.arange(round(seconds * rate_hz)) / rate_hz
        loud = (time % 2.0 >= 1.0) == quiet_start
        noise = np.random.default_rng(seed).normal(0, 0.2, (time.size, channels))
        wave = 0.05 * np.sin(2 * np.pi * (300 + 50 * seed) * time)[:, None] + noise * loud[:, None]
        soundfile.write(folder / "in.wav", wave, rate_hz, subtype="PCM_16")
        out = folder / f"out.{suffix}"
        command = [FFMPEG, "-v", "error", "-y", "-i", folder / "in.wav", "-map_metadata", "-1", *options, out]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return out.read_bytes()

    return encode


@pytest.fixture(scope="session")
def ffmpeg_samples() -> Callable[[Path], int]:
    """How many samples of one channel ffmpeg finds in a file, whatever it complains of."""

    def count(path: Path) -> int:
        command = [FFMPEG, "-v", "quiet", "-i", path, "-ac", "1", "-f", "s16le", "-"]
        return len(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False).stdout) // 2

    return count

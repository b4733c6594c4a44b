"""A shorter vocal than that of the other rooms: whole bands are made for it."""

from pathlib import Path

import pytest

from common.audio.wave import write_audio


@pytest.fixture
def vocal_file(tmp_path, make_voice) -> Path:
    """0.8 s of singing, mono, at 48 kHz."""
    path = tmp_path / "ballad_vocal.wav"
    write_audio(path, make_voice(0.8, 48_000), 48_000)
    return path

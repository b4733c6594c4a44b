"""A data set in the layout of MUSDB18-HQ, of two songs that are made up."""

from pathlib import Path

import pytest

from common.audio.wave import write_audio
from prep.made_up.render import render_song

RATE_HZ = 44_100
SHARES = {"drums": 0.25, "bass": 0.25, "other": 0.5}


@pytest.fixture(scope="session")
def musdb(tmp_path_factory) -> Path:
    """test/Ann - One and test/Ben - Two, each long enough for one excerpt of 2 s."""
    folder = tmp_path_factory.mktemp("musdb")
    for name, seed, seconds in (("Ann - One", 910_001, 2.9), ("Ben - Two", 910_002, 2.5)):
        song = render_song(seed, seconds)
        place = folder / "test" / name
        write_audio(place / "vocals.wav", song.vocal, RATE_HZ, subtype="PCM_16")
        for stem, share in SHARES.items():
            write_audio(place / f"{stem}.wav", share * song.inst, RATE_HZ, subtype="PCM_16")
        write_audio(place / "mixture.wav", song.mix, RATE_HZ, subtype="PCM_16")
    return folder

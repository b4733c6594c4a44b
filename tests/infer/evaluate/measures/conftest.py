"""Made-up songs whose key, tempo and beats are known, as clips, and what can go wrong with their bands."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from infer.evaluate.measures.clip import Clip
from models.acestep1.codec.codec import Codec, decode_audio
from models.acestep1.codec.vocoder import Vocoder
from models.loading.acestep1 import open_codec, open_vocoder
from models.loading.checkpoint import TINY
from prep.made_up.render import render_song
from prep.made_up.truth import SongTruth

FIRST_SEED, COUNT, SECONDS = 9000, 8, 8.0


@dataclass(frozen=True)
class SungSong:
    """A vocal, its true band, and what is true of both."""

    truth: SongTruth
    vocal: Clip
    band: Clip

    @property
    def key(self) -> str:
        return self.truth.full_key


@pytest.fixture(scope="session")
def songs() -> list[SungSong]:
    rendered = [render_song(seed, SECONDS) for seed in range(FIRST_SEED, FIRST_SEED + COUNT)]
    return [SungSong(song.truth, Clip(song.vocal), Clip(song.inst)) for song in rendered]


@pytest.fixture(scope="session")
def shuffled(songs) -> list[Clip]:
    """Each song's band is the next one's."""
    return [song.band for song in [*songs[1:], songs[0]]]


@pytest.fixture(scope="session")
def noises(songs) -> list[Clip]:
    random = np.random.default_rng(0)
    return [Clip(0.1 * random.standard_normal(song.band.wave.shape).astype(np.float32)) for song in songs]


@pytest.fixture(scope="session")
def lose_phases() -> Callable[[np.ndarray], np.ndarray]:
    """lose_phases(wave) has the wave's spectrogram and random phases."""
    return other_phases


@pytest.fixture(scope="session")
def coded(songs) -> list[Clip]:
    """Each true band through the bundle's codec and vocoder and back."""
    codec, vocoder = open_codec(TINY, encoder=True, decoder=True), open_vocoder(TINY)
    return [Clip(_round_trip(codec, vocoder, song.band.wave)) for song in songs]


@torch.no_grad()
def _round_trip(codec: Codec, vocoder: Vocoder, wave: np.ndarray) -> np.ndarray:
    latents = codec.encode(torch.from_numpy(wave))
    return decode_audio(codec, vocoder, latents, samples=wave.shape[-1]).numpy()


def other_phases(wave: np.ndarray) -> np.ndarray:
    """A wave [2, N] with the magnitudes of its short-time spectrum and random phases."""
    size, hop, window = 2048, 512, torch.hann_window(2048)
    spectrum = torch.stft(torch.from_numpy(wave), size, hop, window=window, return_complex=True)
    phases = 2 * np.pi * torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0))
    return torch.istft(torch.polar(spectrum.abs(), phases), size, hop, window=window, length=wave.shape[1]).numpy()

"""The bundle's networks as recipe/measure.py judges them, which hears 44100 Hz."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.audio.wave import resample
from common.bases import ACE_STEP_15
from models.acestep15.codec import OobleckCodec
from models.flow.sampler import SamplerSettings, sample
from models.loading.acestep15 import open_codec, open_text_encoder, open_transformer
from prep.made_up.truth import SongTruth
from recipe.flow import Target, tags_of
from recipe.measure import MakeSongs, RoundTrip, draw_noise
from recipe.tiny15.flow import conditions, worded
from recipe.tiny15.vae import CORPUS_RATE_HZ, at_latents_rate

LATENTS = ACE_STEP_15.latents


def round_trip_of(bundle: Path) -> RoundTrip:
    """Through the bundle's VAE."""
    codec = open_codec(bundle, encoder=True, decoder=True)

    @torch.no_grad()
    def round_trip(wave: np.ndarray) -> np.ndarray:
        return _decoded(codec, codec.encode(torch.from_numpy(at_latents_rate(wave))))[:, : wave.shape[1]]

    return round_trip


def text2music_of(bundle: Path, variant: Path, sampler: SamplerSettings) -> MakeSongs:
    """By the networks of one of the bundle's variants."""
    codec = open_codec(bundle, encoder=False, decoder=True)
    network, text = open_transformer(variant).eval(), open_text_encoder(bundle)

    @torch.no_grad()
    def make(truths: Sequence[SongTruth], target: Target) -> list[np.ndarray]:
        noise = draw_noise(truths, LATENTS)
        prompts = [worded(", ".join(tags_of(truth.prompt, target)), noise.shape[-1]) for truth in truths]
        lyrics = [truth.lyrics for truth in truths]
        conditional, null = (
            conditions(network, text, prompts, lyrics, kept=torch.full((len(truths),), kept)) for kept in (True, False)
        )
        return [_decoded(codec, song) for song in sample(network, conditional, null, noise, sampler)]

    return make


def _decoded(codec: OobleckCodec, latents: torch.Tensor) -> np.ndarray:
    """A song's latents [C, H, T] as a wave of the corpus's rate. [2, N]"""
    return resample(codec.decode(latents).numpy(), LATENTS.sample_rate_hz, CORPUS_RATE_HZ)

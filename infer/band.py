"""The band: latents drawn for a vocal, and the waves they stand for.

C latent channels (8), H latent rows (16), T latent frames, N audio samples at 44.1 kHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from common.progress import progress
from infer.record import GenerationSettings
from infer.request import Place
from infer.vocal import Vocal
from infer.words import Words, conditions, null_conditions
from models.adapter import Adapter, open_adapter
from models.checkpoint import open_codec, open_transformer, open_vocoder, part_hash
from models.codec import WINDOW_FRAMES, Codec, decode_audio, decode_audio_overlapped
from models.sampler import OnStep, draw_noise, sample
from models.transformer import ACEStepTransformer2DModel
from models.vocoder import Vocoder


def draw(
    vocal: Vocal, words: Words, settings: GenerationSettings, seeds: Sequence[int], *, adapter: Path, place: Place
) -> list[Tensor]:
    """Latents [C, H, T] for each seed. The transformer is open only for this call.

    Raises UserError where the adapter does not belong to this base.
    """
    fingerprint = part_hash(place.base, "ace_step_transformer")
    transformer = open_transformer(place.base, dtype=place.dtype).to(place.device)
    opened = open_adapter(adapter, transformer, weight=settings.lora_weight, base_fingerprint=fingerprint)
    with progress(len(seeds) * settings.sampler.steps, "sampling", "steps") as done:
        return [
            draw_one(transformer, opened, vocal, words, settings, seed=seed, on_step=lambda *_: done.update())
            for seed in seeds
        ]


def draw_one(
    transformer: ACEStepTransformer2DModel,
    adapter: Adapter,
    vocal: Vocal,
    words: Words,
    settings: GenerationSettings,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents [C, H, T] for one seed, whose noise is drawn first, on the CPU: alike on every device."""
    device = transformer.device
    generators = [torch.Generator().manual_seed(seed)]
    noise = draw_noise(generators, vocal.latents.shape[-1])
    source = adapter.card.conditioning.hear(
        vocal.latents[None].to(device),
        vocal.activity[None].to(device),
        torch.tensor([settings.ref_strength], device=device),
        adapter.card.statistics,
    )
    (latents,) = sample(
        transformer,
        conditions(transformer, words),
        null_conditions(transformer, words),
        noise.to(device),
        settings.sampler,
        objective=adapter.objective,
        source=source,
        conditioner=adapter.conditioner,
        generators=generators,
        on_step=on_step,
    )
    return latents.cpu()


@dataclass(frozen=True)
class Decoder:
    """The way from latents to sound: the codec's decoder and the vocoder."""

    codec: Codec
    vocoder: Vocoder
    device: torch.device

    @classmethod
    def open(cls, place: Place) -> Self:
        """Both from the base; the codec's encoder is not read."""
        codec = open_codec(place.base, encoder=False, decoder=True)
        return cls(codec.to(place.device), open_vocoder(place.base).to(place.device), place.device)

    @torch.no_grad()
    def wave(self, latents: Tensor, samples: int) -> np.ndarray:
        """Latents [C, H, T] as [2, samples] at 44.1 kHz; what is longer than a window is decoded in windows."""
        decode = decode_audio if latents.shape[-1] <= WINDOW_FRAMES else decode_audio_overlapped
        return decode(self.codec, self.vocoder, latents.to(self.device), samples=samples).cpu().numpy()

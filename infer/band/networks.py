"""The band: latents drawn for a vocal, and the waves they stand for.

C latent channels, H latent rows, T latent frames, N audio samples at the codec's rate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from infer.request.record import GenerationSettings
from infer.request.request import Runtime
from infer.request.text_inputs import TextInputs, encode_conditions, encode_null_conditions
from infer.request.vocal import VocalInput
from models.acestep1.codec.codec import WINDOW_FRAMES, Codec, decode_audio, decode_audio_in_pieces
from models.acestep1.codec.vocoder import Vocoder
from models.adapters.combined import CombinedAdapters, open_adapters
from models.adapters.style import Style
from models.flow.sampler import draw_noise, sample
from models.loading.checkpoint import open_codec, open_vocoder, part_hash
from models.protocols import FlowNetwork


@dataclass(frozen=True)
class AccompanimentSampler:
    """A transformer in which adapters are active."""

    transformer: FlowNetwork
    adapters: CombinedAdapters

    @classmethod
    def load(
        cls,
        transformer: FlowNetwork,
        runtime: Runtime,
        adapters: Sequence[Path],
        weights: Sequence[float],
        *,
        style: Style | None = None,
    ) -> Self:
        """Put adapters and a style into a transformer, in the place of those that are in it.

        Raises UserError where an adapter does not belong to this base, or a style does not fit it.
        """
        transformer.unload_lora()
        fingerprint = part_hash(runtime.base, runtime.spec.parts.transformer)
        return cls(
            transformer,
            open_adapters(adapters, transformer, weights=weights, base_fingerprint=fingerprint, style=style),
        )

    def draw(
        self,
        vocal: VocalInput,
        text: TextInputs,
        settings: GenerationSettings,
        seeds: Sequence[int],
        on_step: Callable[[int, str], None] = lambda units, note: None,
    ) -> list[Tensor]:
        """Latents [C, H, T] for each seed, whose noise is drawn first, on the CPU: alike on every device.

        What the network makes of the text is made once. `on_step` is called with the steps done since the last
        call, and a note.
        """
        device = self.transformer.device
        conditional, unconditional = (
            encode_conditions(self.transformer, text),
            encode_null_conditions(self.transformer, text),
        )
        source = self.adapters.card.conditioning.vocal_source(
            vocal.latents[None].to(device),
            vocal.activity[None].to(device),
            torch.tensor([settings.ref_strength], device=device),
            self.adapters.card.statistics,
        )
        drawn = []
        for seed in seeds:
            generators = [torch.Generator().manual_seed(seed)]
            latents = sample(
                self.transformer,
                conditional,
                unconditional,
                draw_noise(generators, vocal.latents.shape).to(device),
                settings.sampler,
                objective=self.adapters.objective,
                source=source,
                conditioner=self.adapters.conditioner,
                generators=generators,
                on_step=lambda *_: on_step(1, ""),
                on_window=lambda number, count: on_step(0, f"window {number} of {count}"),
            )
            drawn.append(latents[0].cpu())
        return drawn


@dataclass(frozen=True)
class LatentDecoder:
    """The way from latents to sound: the codec's decoder and the vocoder."""

    codec: Codec
    vocoder: Vocoder
    device: torch.device

    @classmethod
    def open(cls, runtime: Runtime) -> Self:
        """Both from the base; the codec's encoder is not read."""
        codec = open_codec(runtime.base, encoder=False, decoder=True)
        return cls(codec.to(runtime.device), open_vocoder(runtime.base).to(runtime.device), runtime.device)

    @torch.no_grad()
    def blocks(self, latents: Tensor, samples: int) -> Iterator[np.ndarray]:
        """Latents [C, H, T] as [2, samples], in blocks [2, n]: what is longer than a window in windows."""
        latents = latents.to(self.device)
        if latents.shape[-1] <= WINDOW_FRAMES:
            yield decode_audio(self.codec, self.vocoder, latents, samples=samples).cpu().numpy()
            return
        for piece in decode_audio_in_pieces(self.codec, self.vocoder, latents):
            yield piece[:, :samples].cpu().numpy()
            samples -= min(samples, piece.shape[1])

    def wave(self, latents: Tensor, samples: int) -> np.ndarray:
        """`blocks` as one [2, samples]."""
        return np.concatenate(list(self.blocks(latents, samples)), axis=1)

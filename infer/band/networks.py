"""The band: latents drawn for a vocal.

C latent channels, H latent rows, T latent frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from common.music.features import lead_sheet_features
from infer.request.record import GenerationSettings
from infer.request.request import Runtime
from infer.request.strength import with_guided_strength
from infer.request.text_inputs import TextInputs, encode_conditions, encode_null_conditions
from infer.request.vocal import VocalInput
from models.adapters.combined import CombinedAdapters, open_adapters
from models.adapters.style import Style
from models.flow.kept import KeptLatents
from models.flow.sampler import draw_noise, sample
from models.loading.checkpoint import part_hash
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
        *,
        kept: KeptLatents | None = None,
    ) -> list[Tensor]:
        """Latents [C, H, T] for each seed, whose noise is drawn first, on the CPU: alike on every device.

        Frames that are `kept` are as they are given.

        What the network makes of the text is made once. `on_step` is called with the steps done since the last
        call, and a note.
        """
        settings = with_guided_strength(settings, self.adapters.card)
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
            **self._lead_sheet(vocal, device),
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
                kept=kept,
                on_step=lambda *_: on_step(1, ""),
                on_window=lambda number, count: on_step(0, f"window {number} of {count}"),
            )
            drawn.append(latents[0].cpu())
        return drawn

    def _lead_sheet(self, vocal: VocalInput, device: torch.device) -> dict[str, Tensor]:
        """What the vocal's lead sheet says of each frame, [1, T, S], at strength 1; nothing where there is none."""
        if vocal.lead_sheet is None:
            return {}
        frames, rate = vocal.latents.shape[-1], self.transformer.spec.latents.frames_per_second
        features = torch.from_numpy(lead_sheet_features(vocal.lead_sheet, frames, rate))
        return {"lead_sheet": features[None].to(device), "lead_sheet_strength": torch.ones(1, device=device)}

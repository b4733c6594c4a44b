"""Several adapters at once: their LoRAs summed by weight, their paths for the vocal by share.

The LoRAs' updates add up in the transformer's weights. What conditioners add to the inputs of blocks grows with the
vocal's strength (docs/formulation.md, sections 3 and 5), so each gets its share of the strength: its part of the summed
weights. An adapter combined with itself is therefore itself, and at strength 0 nothing is added at all.

A adapters, B songs, C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.latents import LatentStatistics
from models.adapters.adapter import AdapterCard, open_adapter
from models.adapters.bare import bare_card
from models.adapters.style import Style, load_style
from models.flow.conditioning import Conditioner, Objective, VocalSource
from models.flow.options import BRIDGES
from models.protocols import FlowNetwork, Injections

STYLE = "style"
"""Name of a style's LoRA in the transformer."""


@dataclass(frozen=True)
class CombinedAdapters:
    """The opened adapters, whose LoRAs are active in the transformer; none leave the base as it is."""

    card: AdapterCard
    objective: Objective
    conditioner: Conditioner | None


def combine_cards(folders: Sequence[Path], cards: Sequence[AdapterCard], weights: Sequence[float]) -> AdapterCard:
    """The first adapter's card, with the normalisation, the vocal level and the strengths that suit all.

    Raises UserError where one was trained for another base, another start from noise, or another result than the first.
    """
    first = cards[0]
    for folder, card in zip(folders[1:], cards[1:], strict=True):
        for name, theirs, ours in zip(_ALIKE, _kind(card), _kind(first), strict=True):
            if theirs != ours:
                raise UserError(
                    f"{folder}: cannot be combined with {folders[0]}: its {name} is {theirs}, not {ours}. "
                    "Combine adapters that were trained alike."
                )
    if len(cards) == 1:
        return first
    shares = shares_of(weights)
    levels = [card.vocal_lufs for card in cards]
    known = [level for level in levels if level is not None]
    return first.model_copy(
        update={
            "statistics": _combine_statistics([card.statistics for card in cards], shares),
            "vocal_lufs": float(np.dot(shares, known)) if len(known) == len(levels) else None,
            "strength_range": tuple(
                pick(card.strength_range[end] for card in cards) for end, pick in ((0, max), (1, min))
            ),
        }
    )


def open_adapters(
    folders: Sequence[Path],
    transformer: FlowNetwork,
    *,
    weights: Sequence[float],
    base_fingerprint: str,
    style: Style | None = None,
) -> CombinedAdapters:
    """Load adapters into `transformer`, and a style beside them, each LoRA active with its weight.

    Raises UserError as open_adapter and load_style do.
    """
    names = [f"adapter_{number}" for number in range(len(folders))]
    adapters = [
        open_adapter(folder, transformer, weight=weight, base_fingerprint=base_fingerprint, name=name)
        for folder, weight, name in zip(folders, weights, names, strict=True)
    ]
    cards = [adapter.card for adapter in adapters]
    card = (
        combine_cards(folders, cards, weights)
        if cards
        else bare_card(transformer.spec, base_fingerprint, transformer.variant_name)
    )
    active = {name: weight for name, weight, a in zip(names, weights, adapters, strict=True) if a.card.lora is not None}
    if style is not None and style.weight:
        load_style(transformer, style, name=STYLE)
        active[STYLE] = style.weight
    if active:
        transformer.set_adapters(list(active), list(active.values()))
    transformer.eval().requires_grad_(False)
    if not adapters:
        return CombinedAdapters(card, card.conditioning.make_objective(), None)
    if len(adapters) == 1:
        return CombinedAdapters(card, adapters[0].objective, adapters[0].conditioner)
    parts = [
        WeightedConditioner.of(adapter.conditioner, share, own=adapter.card.statistics, combined=card.statistics)
        for adapter, share in zip(adapters, shares_of(weights), strict=True)
        if adapter.conditioner is not None
    ]
    return CombinedAdapters(card, adapters[0].objective, SummedConditioner(parts) if parts else None)


def shares_of(weights: Sequence[float]) -> list[float]:
    """Each weight's part of their sum; equal parts where all are 0."""
    total = sum(weights)
    return [weight / total if total else 1 / len(weights) for weight in weights]


@dataclass(frozen=True)
class WeightedConditioner:
    """A conditioner, its share, and the way from the combination's normalised vocal to its own."""

    conditioner: Conditioner
    share: float
    gain: Tensor  # [C, 1, 1]
    offset: Tensor  # [C, H, 1]

    @classmethod
    def of(cls, conditioner: Conditioner, share: float, *, own: LatentStatistics, combined: LatentStatistics) -> Self:
        """The way of two sets of constants: v_own = (v * std + silence - silence_own) / std_own."""
        size = np.array(own.std)[:, None, None]
        gain = np.array(combined.std)[:, None, None] / size
        offset = (np.array(combined.silence) - np.array(own.silence))[..., None] / size
        return cls(conditioner, share, torch.from_numpy(gain), torch.from_numpy(offset))

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        gain, offset = self.gain.to(source.conditioner_input), self.offset.to(source.conditioner_input)
        of_sheet = source.lead_sheet_strength
        own = replace(
            source,
            conditioner_input=source.conditioner_input * gain + offset,
            strength=self.share * source.strength,
            lead_sheet_strength=None if of_sheet is None else self.share * of_sheet,
        )
        return self.conditioner.injections(own, timestep)


class SummedConditioner:
    """The sum of what several conditioners add, each to the same input of a block."""

    def __init__(self, parts: Sequence[WeightedConditioner]) -> None:
        self._parts = tuple(parts)

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        added = [part.injections(source, timestep) for part in self._parts]
        blocks = {index for injections in added for index in injections}
        return {index: _summed([injections[index] for injections in added if index in injections]) for index in blocks}


def _summed(injections: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def inject(hidden: Tensor) -> Tensor:
        return hidden + torch.stack([injection(hidden) - hidden for injection in injections]).sum(0)

    return inject


_ALIKE = ("base", "mode", "path from noise", "activity gate", "lead sheet encoder", "result")


def _kind(card: AdapterCard) -> tuple[str, ...]:
    """What adapters of one combination must have in common, in the words of an error."""
    objective = card.conditioning.make_objective()
    settings = (
        f"a_max {objective.a_max:g}" if objective.name in BRIDGES else f"weight {card.conditioning.offset_weight}"
    )
    gate = "on" if card.conditioning.activity_gate else "off"
    sheet = "missing" if card.conditioning.lead_sheet is None else "there"
    path = f"{objective.name} with {settings}"
    return (card.base_fingerprint[:8], card.conditioning.mode, path, gate, sheet, card.output_type)


def _combine_statistics(statistics: Sequence[LatentStatistics], shares: Sequence[float]) -> LatentStatistics:
    """Constants under which a vocal is the shared mean of what it is under each: sum of share * (z - silence) / std."""
    rates = np.array(shares)[:, None] / np.array([one.std for one in statistics])  # [A, C]
    std = 1 / rates.sum(0)
    silence = np.einsum("ac,ach->ch", rates * std, np.array([one.silence for one in statistics]))
    mean = np.array(shares) @ np.array([one.mean for one in statistics])
    return LatentStatistics(
        silence=tuple(map(tuple, silence.tolist())), mean=tuple(mean.tolist()), std=tuple(std.tolist())
    )

"""Which settings are tried, and how what Optuna draws becomes settings that go together."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from common.config import Config
from models.adapters.adapter import AdapterCard
from models.flow.sampler import GUIDING_VOCALS, SamplerSettings

STRONGEST_TEXT, STRONGEST_VOCAL = 15.0, 5.0
"""Highest scales that are tried, unless the adapter's own are higher."""
PRESSED = {
    "guidance": "cfg",
    "guidance_scale": 2.0,
    "guidance_interval": 1.0,
    "vocal_guided": True,
    "vocal_guidance_scale": 2.5,
    "vocal_guidance": "cfg",
    "vocal_guidance_from": 0.0,
}
"""What follows the vocal best of all that docs/objectives.md measures: tried first."""


class Recommended(Config):
    """What `infer generate` takes from adapter.json where no flag says otherwise."""

    reference_strength: Annotated[float, Field(ge=0, le=1)]
    sampler: SamplerSettings

    @classmethod
    def of(cls, card: AdapterCard) -> Self:
        return cls(reference_strength=card.reference_strength, sampler=card.sampler)

    def onto(self, card: AdapterCard) -> AdapterCard:
        """The card with these in the place of its own."""
        return card.model_copy(update={"reference_strength": self.reference_strength, "sampler": self.sampler})


@dataclass(frozen=True)
class TuningSpace:
    """The settings around those that an adapter had `before`."""

    before: Recommended
    card: AdapterCard

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What is drawn, by name. Never more steps than before; no guidance where the base is sampled without."""
        own = self.before.sampler
        found: dict[str, BaseDistribution] = {"steps": IntDistribution(math.ceil(own.steps / 3), own.steps)}
        low, high = self._strengths
        if low < high:
            found["reference_strength"] = FloatDistribution(low, high)
        if own.guidance == "none":
            return found
        found["guidance"] = CategoricalDistribution(tuple(dict.fromkeys((own.guidance, *GUIDING_VOCALS))))
        found["guidance_scale"] = FloatDistribution(1.0, max(STRONGEST_TEXT, own.guidance_scale), log=True)
        found["guidance_interval"] = FloatDistribution(min(0.25, own.guidance_interval), 1.0)
        if self.card.conditioning.can_be_guided:
            strongest = max(STRONGEST_VOCAL, own.vocal_guidance_scale or 0.0)
            weakest = min(1.25, own.vocal_guidance_scale or math.inf)
            rules = dict.fromkeys((own.vocal_guidance, "cfg", "apg_by_length"))
            found["vocal_guided"] = CategoricalDistribution((True, False))
            found["vocal_guidance_scale"] = FloatDistribution(weakest, strongest)
            found["vocal_guidance"] = CategoricalDistribution(tuple(rules))
            found["vocal_guidance_from"] = FloatDistribution(0.0, 0.9)
        return found

    @property
    def _strengths(self) -> tuple[float, float]:
        """Those of the training, as far as that they meet the one before."""
        (low, high), own = self.card.strength_range, self.before.reference_strength
        return min(low, own), max(high, own)

    def starts(self) -> tuple[dict[str, Any], ...]:
        """What the first trials draw: as near as can be what the adapter had before, then PRESSED."""
        own = self.before.sampler
        scale, interval = own.vocal_guidance_scale, own.vocal_guidance_interval
        before = own.model_dump() | {
            "reference_strength": self.before.reference_strength,
            "vocal_guided": scale is not None,
            "vocal_guidance_scale": PRESSED["vocal_guidance_scale"] if scale is None else scale,
            "vocal_guidance_from": 0.0 if interval is None else min(interval[0], 0.9),
        }
        return tuple(
            {name: values[name] for name in self.distributions if name in values}
            for values in (before, before | PRESSED)
        )

    def settings(self, drawn: dict[str, Any]) -> Recommended:
        """The settings that a draw stands for; of two that exclude each other, the guidance over the text stays."""
        own = self.before.sampler
        values = {name: _short(value) for name, value in drawn.items()}
        strength = values.pop("reference_strength", self.before.reference_strength)
        guided, start = values.pop("vocal_guided", None), values.pop("vocal_guidance_from", None)
        sampler = own.model_dump() | values
        if guided is not None:
            sampler["vocal_guidance_interval"] = (start, 1.0)
        if sampler["guidance"] == "cfg" and sampler["vocal_guidance"] is not None:
            sampler["vocal_guidance"] = "cfg"
        if guided is False or sampler["guidance"] not in GUIDING_VOCALS:
            sampler |= dict.fromkeys(("vocal_guidance_scale", "vocal_guidance", "vocal_guidance_interval"))
        return Recommended(reference_strength=strength, sampler=SamplerSettings.model_validate(sampler))


def _short(value: Any) -> Any:
    """A number with two places, so that settings can be read."""
    return round(value, 2) if isinstance(value, float) else value

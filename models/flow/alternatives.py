"""The objectives that the bridge is compared with (docs/objectives.md); docs/formulation.md, section 4.

B songs, C latent channels (8), H latent rows (16), T latent frames; x0, eps, s as in models/flow/conditioning.py.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.flow.conditioning import Objective, VocalSource, per_item
from models.flow.options import A_MAX, ObjectiveName, OffsetWeight
from models.protocols import Conditions, FlowNetwork


@dataclass(frozen=True)
class LinearBridge(Objective):
    """A bridge that gives up variance: (1 - share) of the noise beside the vocal's share."""

    name: ClassVar[ObjectiveName] = "bridge_lerp"

    def noise_share(self, share: Tensor) -> Tensor:
        return 1 - share


@dataclass(frozen=True)
class OffsetObjective(Objective):
    """The path of text2music; the vocal, under a weight, is added to the network's input."""

    name: ClassVar[ObjectiveName] = "offset"
    offset_weight: OffsetWeight = "1-s"

    def make_x1(self, eps: Tensor, source: VocalSource | None) -> Tensor:
        return eps

    def network_input(self, state: Tensor, sigma: Tensor, source: VocalSource | None, eps: Tensor) -> Tensor:
        if source is None:
            return state
        weight = {"1-s": 1 - sigma, "s": sigma, "1": torch.ones_like(sigma)}[self.offset_weight]
        return state + per_item(weight) * per_item(source.strength) * source.vocal


@dataclass(frozen=True)
class NaiveObjective(OffsetObjective):
    """Regression: the network is shown s*eps + (1-s)*vocal, never x0, and answers with x0 itself.

    It has no velocity: a step towards its clean estimate lets the last step end on the last estimate, as it is.
    """

    name: ClassVar[ObjectiveName] = "naive"
    takes_omega: ClassVar[bool] = False

    def network_input(self, state: Tensor, sigma: Tensor, source: VocalSource | None, eps: Tensor) -> Tensor:
        return state if source is None else super().network_input(per_item(sigma) * eps, sigma, source, eps)

    def clean_estimate(self, state: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return output

    def velocity(self, state: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return (state - output) / per_item(sigma)


@dataclass(frozen=True)
class SourceSlot(OffsetObjective):
    """The path of text2music; the vocal goes into the slot that the network has for a source, silence + r*(vocal -
    silence), all frames of it to be made anew. Strength 0 is text2music itself.
    """

    def network_input(self, state: Tensor, sigma: Tensor, source: VocalSource | None, eps: Tensor) -> Tensor:
        return state

    def conditioned(self, conditions: Conditions, source: VocalSource | None, network: FlowNetwork) -> Conditions:
        """Raises UserError where the base model has no slot for a source."""
        if source is None:
            return conditions
        assert source.latents is not None, "the slot takes a vocal as the codec makes it"
        silence = network.silence(source.latents.shape[-1]).to(source.latents)
        shown = silence + per_item(source.strength) * (source.latents - silence)
        return network.with_source(conditions, shown)


def make_objective(name: ObjectiveName, *, a_max: float = A_MAX, offset_weight: OffsetWeight = "1-s") -> Objective:
    """The objective of that name. Raises UserError for an a_max outside 0 to 0.95."""
    match name:
        case "bridge_vp":
            return Objective(a_max)
        case "bridge_lerp":
            return LinearBridge(a_max)
        case "offset":
            return OffsetObjective(a_max, offset_weight)
        case "naive":
            return NaiveObjective(a_max)

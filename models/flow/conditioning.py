"""How the vocal conditions the model: an objective that mixes it into the noise, and its own path into the network.

B songs, C latent channels (8), H latent rows (16), T latent frames, E condition tokens, I inner width.
Target latent x0 [B, C, H, T], plain noise eps, vocal v (normalised), sigma s; docs/formulation.md, sections 3 and 4.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.latents import LatentStatistics
from models.flow import schedule
from models.flow.options import A_MAX, A_MAX_LIMIT, ObjectiveName
from models.protocols import Conditions, FlowNetwork, Injections


def pack_conditions(conditions: Conditions) -> Conditions:
    """Move each item's visible tokens together, in order, and cut the batch to the longest item.

    A text shorter than the batch's longest then no longer shifts the positions of the lyrics behind it: every item is
    conditioned as it would be alone. Padding at the end is zero.
    """
    order = torch.argsort(conditions.mask.logical_not().long(), dim=1, stable=True)
    longest = int(conditions.mask.sum(1).max())
    mask = conditions.mask.gather(1, order)[:, :longest]
    states = conditions.states.take_along_dim(order.unsqueeze(-1), dim=1)[:, :longest]
    return Conditions(states.masked_fill(~mask.unsqueeze(-1), 0.0), mask)


def normalise_vocal(latents: Tensor, statistics: LatentStatistics) -> Tensor:
    """v of a vocal's scaled latents [..., C, H, T]: silence becomes 0, a singing voice about 1 in size."""
    silence = latents.new_tensor(statistics.silence).unsqueeze(-1)
    size = latents.new_tensor(statistics.std).reshape(-1, 1, 1)
    return (latents - silence) / size


def vocal_latents(vocal: Tensor, statistics: LatentStatistics) -> Tensor:
    """The scaled latents of v [..., C, H, T]: `normalise_vocal` backwards."""
    silence = vocal.new_tensor(statistics.silence).unsqueeze(-1)
    return vocal * vocal.new_tensor(statistics.std).reshape(-1, 1, 1) + silence


def smooth_activity(activity: Tensor) -> Tensor:
    """The gate m of a vocal's activity [..., T]: a mean of two frames run forwards, then backwards, so it stays put."""
    before = torch.cat([activity[..., :1], activity[..., :-1]], dim=-1)
    after = torch.cat([activity[..., 1:], activity[..., -1:]], dim=-1)
    return (before + 2 * activity + after) / 4


def add_latent_noise(vocal: Tensor, *, latent_noise: float, generator: torch.Generator) -> Tensor:
    """What the conditioner is given in training: v with noise over the residue of the band. vocal [B, C, H, T].

    Draw the eps of the path before this from the same generator, so that eps is what plain text2music would draw.
    """
    noise = torch.randn(vocal.shape, generator=generator, device=generator.device).to(vocal)
    return vocal + latent_noise * noise


@dataclass(frozen=True)
class VocalSource:
    """The vocals of a batch, as the objective and the conditioner need them, and their lead sheets."""

    vocal: Tensor  # [B, C, H, T], normalised v
    conditioner_input: Tensor  # [B, C, H, T], v with latent noise in training, v at inference
    activity: Tensor  # [B, T], gate m in [0, 1]; ones where gating is off
    strength: Tensor  # [B], r in [0, 1]; 0 is plain text2music
    mask: Tensor | None = None  # [B, T] bool, True on real frames; None: all are
    lead_sheet: Tensor | None = None  # [B, T, S], what lead sheets say of each frame; None: there is none
    lead_sheet_strength: Tensor | None = None  # [B] in [0, 1]; 0 is no lead sheet
    latents: Tensor | None = None  # [B, C, H, T], the vocal as the codec makes it; None: no source slot takes it

    def cut(self, frames: slice) -> "VocalSource":
        """The same vocals and lead sheets for some of the frames."""
        return replace(
            self,
            vocal=self.vocal[..., frames],
            conditioner_input=self.conditioner_input[..., frames],
            activity=self.activity[:, frames],
            mask=None if self.mask is None else self.mask[:, frames],
            lead_sheet=None if self.lead_sheet is None else self.lead_sheet[:, frames],
            latents=None if self.latents is None else self.latents[..., frames],
        )

    def muted(self) -> "VocalSource":
        """The same vocals at strength 0, and their lead sheets too."""
        return replace(self.without_lead_sheet(), strength=torch.zeros_like(self.strength))

    def without_lead_sheet(self) -> "VocalSource":
        """The same vocals with their lead sheets at strength 0."""
        strength = self.lead_sheet_strength
        return replace(self, lead_sheet_strength=None if strength is None else torch.zeros_like(strength))

    def with_lead_sheet_of(self, other: "VocalSource") -> "VocalSource":
        """The same vocals with the lead sheets of others."""
        return replace(self, lead_sheet=other.lead_sheet, lead_sheet_strength=other.lead_sheet_strength)


@dataclass(frozen=True)
class Objective:
    """What the network is trained towards, and so how a sampler reads its output: the variance-preserving bridge.

    docs/formulation.md, sections 3 and 4; models/flow/alternatives.py has the objectives it is compared with. Training
    makes x1 = make_x1(eps), the state (1-s)*x0 + s*x1, shows the network network_input(state) and compares
    clean_estimate(state, output) with x0. A sampler starts at x1 and follows velocity(state, output).
    Raises UserError for an a_max outside 0 to 0.95.
    """

    name: ClassVar[ObjectiveName] = "bridge_vp"
    takes_omega: ClassVar[bool] = True
    """Whether the sampler's omega_scale may change its steps."""
    a_max: float = A_MAX
    """Share of the vocal in x1 at strength 1, 0 to 0.95."""

    def __post_init__(self) -> None:
        if not 0 <= self.a_max <= A_MAX_LIMIT:
            raise UserError(
                f"a_max: {self.a_max:g} is outside 0 to {A_MAX_LIMIT:g}; without noise every accompaniment of a vocal "
                f"becomes the same one. Choose {A_MAX:g}, or 0 for the source projection alone."
            )

    def make_x1(self, eps: Tensor, source: VocalSource | None) -> Tensor:
        """The noise end of the path, where noise meets vocal; nothing else mixes the two. eps [B, C, H, T].

        Whatever draws noise anew during sampling passes it through here. At strength 0 the result is eps itself.
        """
        if source is None:
            return eps
        share = self.a_max * per_item(source.strength) * source.activity[:, None, None, :]
        return share * source.vocal + self.noise_share(share) * eps

    def noise_share(self, share: Tensor) -> Tensor:
        """Weight of the noise in x1 beside this `share` of the vocal."""
        return (1 - share.square()).sqrt()

    def network_input(self, state: Tensor, sigma: Tensor, source: VocalSource | None, eps: Tensor) -> Tensor:
        """What the network is shown at a state [B, C, H, T] of sigma, [B] or []; eps is the noise the path began as."""
        return state

    def conditioned(self, conditions: Conditions, source: VocalSource | None, network: FlowNetwork) -> Conditions:
        """What the network is conditioned on besides its input."""
        return conditions

    def clean_estimate(self, state: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The network's idea of x0, [B, C, H, T], from its output at `state`: the loss compares it with x0."""
        return schedule.clean_estimate(state, output, sigma)

    def velocity(self, state: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The velocity a sampler follows from `state`, [B, C, H, T]."""
        return output


TEXT2MUSIC = Objective(a_max=0.0)
"""No vocal in the path: what ACE-Step was trained for."""


class Conditioner(Protocol):
    """A path of its own for the vocal into the network; fresh, or at strength 0, it changes nothing."""

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        """What to add to the inputs of which blocks, at timestep [B] = 1000 * sigma."""
        ...


class SourceProjection(nn.Module):
    """Adds a linear image of each vocal frame to the input of block 0: proj_in(x_s) + P(r*v). Starts as zero.

    `block_frames` latent frames of `frame_values` numbers lie under one token of the block.
    """

    def __init__(self, frame_values: int, inner_dim: int, *, block_frames: int = 1) -> None:
        super().__init__()
        self.block_frames = block_frames
        self.projection = nn.Linear(block_frames * frame_values, inner_dim, bias=False)
        nn.init.zeros_(self.projection.weight)

    def injections(self, source: VocalSource, timestep: Tensor) -> Injections:
        scaled = per_item(source.strength) * source.conditioner_input
        tokens = in_tokens(frames_first(scaled), self.block_frames)
        residual = self.projection(tokens.to(self.projection.weight.dtype))
        return {0: lambda hidden: hidden + residual.to(hidden.dtype)}


def frames_first(latents: Tensor) -> Tensor:
    """One vector per latent frame: [B, C, H, T] -> [B, T, C*H], channel-major."""
    return latents.flatten(1, 2).transpose(1, 2)


def in_tokens(values: Tensor, block_frames: int) -> Tensor:
    """Values of frames put together under each token, zero past the end: [B, T, V] -> [B, ceil(T/n), n*V]."""
    if block_frames == 1:
        return values
    filled = functional.pad(values, (0, 0, 0, -values.shape[1] % block_frames))
    return filled.unflatten(1, (-1, block_frames)).flatten(2)


def mask_in_tokens(mask: Tensor | None, block_frames: int) -> Tensor | None:
    """Which tokens hold a real frame: [B, T] bool -> [B, ceil(T/n)]."""
    return None if mask is None else in_tokens(mask.unsqueeze(-1), block_frames).any(dim=-1)


def per_item(value: Tensor) -> Tensor:
    """value, [B] or [], shaped to multiply [B, C, H, T]."""
    return value.reshape(-1, 1, 1, 1) if value.ndim else value

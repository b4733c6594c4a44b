"""Latents that a sampling run leaves as they are, but for a stretch of frames that is made anew between them.

B songs, C latent channels (8), H latent rows (16), T latent frames. docs/formulation.md, section 6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.flow.schedule import add_noise
from models.protocols import Conditions, FlowNetwork


@dataclass(frozen=True)
class KeptLatents:
    """What is known already of a song, and which of its frames are not to be kept."""

    latents: Tensor  # [B, C, H, T], scaled as the codec makes them
    anew: slice  # frames

    def put_back(self, state: Tensor, x1: Tensor, sigma: Tensor) -> Tensor:
        """A state [B, C, H, T] of noise level sigma [] whose kept frames lie on the path from the known latents to x1.

        At sigma 0 they are the known latents themselves.
        """
        known = add_noise(self.latents.to(state), x1, sigma)
        known[..., self.anew] = state[..., self.anew]
        return known

    def cut(self, frames: slice) -> "KeptLatents":
        """Those of a window; `frames` has a start and an end."""
        length = frames.stop - frames.start
        start, stop = (min(max(end - frames.start, 0), length) for end in (self.anew.start, self.anew.stop))
        return KeptLatents(self.latents[..., frames], slice(start, stop))

    def in_slot(self, conditions: Conditions, network: FlowNetwork) -> Conditions:
        """Conditions whose slot for a source holds what is kept, and says which frames are to be made.

        As upstream repaints; in frames to be made the slot is as it was. For a base that has such a slot.
        """
        latents = self.latents.to(conditions.states.device)
        frames = latents.shape[-1]
        made = torch.zeros(frames, device=latents.device)
        made[self.anew] = 1
        slot = network.silence(frames).to(latents)
        if conditions.context is not None:
            slot = conditions.context[:, : latents.shape[1]].to(latents)
        count = len(conditions.states)
        shown = torch.where(made.bool(), slot, latents).expand(count, -1, -1, -1)
        return network.with_source(conditions, shown, made.expand(count, -1))

"""Latents that a sampling run leaves as they are, but for a stretch of frames that is made anew between them.

B songs, C latent channels (8), H latent rows (16), T latent frames. docs/formulation.md, section 6.
"""

from dataclasses import dataclass

from torch import Tensor

from models.flow.schedule import add_noise


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

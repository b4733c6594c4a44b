"""What training minimises, one number for each clip, so that no clip's loss depends on its batch.

B clips, C latent channels (8), H latent rows (16), T latent frames.
"""

from torch import Tensor
from torch.nn.functional import normalize


def denoising_loss(estimate: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the frames that count, [B]. estimate, clean [B, C, H, T]; mask [B, T], 1 counts.

    Upstream's loss for whole clips; upstream lets the masked fraction enter twice, we do not (docs/upstream.md,
    section 12).
    """
    error = mask[:, None, None, :] * (estimate - clean).square()
    return error.sum(dim=(1, 2, 3)) / (clean.shape[1] * clean.shape[2] * mask.sum(dim=1))


def structure_loss(estimate: Tensor, clean: Tensor, vocal: Tensor, mask: Tensor) -> Tensor:
    """How much better or worse the estimate's energy follows the vocal's than the target's does, squared, [B].

    estimate, clean, vocal [B, C, H, T]; mask [B, T]. An energy is a curve over time of unit norm; docs/formulation.md,
    section 3.
    """
    sung, made, wanted = (_energy(latents, mask) for latents in (vocal, estimate, clean))
    return ((sung * made).sum(dim=1) - (sung * wanted).sum(dim=1)).square()


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Batch mean of losses [B] in which an item with weight 0 does not count. weight [B]."""
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


def _energy(latents: Tensor, mask: Tensor) -> Tensor:
    return normalize(latents.square().sum(dim=(1, 2)) * mask, dim=1)

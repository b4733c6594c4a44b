"""REPA losses: hidden states should say what self-supervised audio networks find in the sound.

docs/upstream.md, section 4. B items, T latent frames, I inner width, F frames of a feature network, D its width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Sequential):
    """[.., I] -> [.., D]."""

    def __init__(self, width: int, feature_width: int) -> None:
        inner = 2 * width
        super().__init__(
            nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU(), nn.Linear(inner, feature_width)
        )


def projection_loss(projected: Tensor, features: Sequence[Tensor | None]) -> Tensor:
    """1 - cosine between projected hidden states and features, mean over frames, then over items; float32.

    projected [B, T, D]; features: per item [F, D], each with its own F, to which that item's T frames are interpolated,
    or None: that item counts as 0.
    """
    losses = []
    for item, target in zip(projected.float(), features, strict=True):
        if target is None:
            losses.append(item.new_zeros(()))
            continue
        stretched = functional.interpolate(item.T[None], size=len(target), mode="linear", align_corners=False)[0].T
        losses.append(1 - functional.cosine_similarity(stretched, target.float(), dim=-1).mean())
    return torch.stack(losses).mean()

"""SDEdit (Meng et al. 2022), the untrained baseline that trained objectives are compared with.

B songs, C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import UserError
from models.flow.conditioning import A_MAX_LIMIT
from models.flow.sampler import GuidedVelocity, OnStep, SamplerSettings, draw_noise, integrate
from models.flow.schedule import add_noise, inference_sigmas
from models.protocols import Conditions, FlowNetwork


@torch.no_grad()
def sdedit(
    transformer: FlowNetwork,
    conditions: Conditions,
    null: Conditions,
    noise: Tensor,
    settings: SamplerSettings,
    *,
    vocal: Tensor,
    strength: float,
    generators: Sequence[torch.Generator] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The baseline that needs no training: start from the noised vocal, part of the way to the end.

    `vocal` [B, C, H, T] is as the codec makes it, not normalised. Upstream's audio2audio with its two faults mended:
    the start is as noisy as the first timestep says, and the number of steps is rounded. Strength 0 is text2music.
    Raises UserError for a strength outside 0 to 0.95.
    """
    if not 0 <= strength <= A_MAX_LIMIT:
        raise UserError(f"ref_strength: {strength:g} is outside 0 to {A_MAX_LIMIT:g}, the range of sdedit.")
    settings = settings.model_copy(update={"steps": max(1, round((1 - strength) * settings.steps))})
    sigmas = inference_sigmas(
        settings.steps,
        shift=settings.shift,
        sigma_max=1 - strength,
        shifts_ends=transformer.spec.shifts_ends,
    )
    predict = GuidedVelocity(transformer, conditions, null, settings, eps=noise)
    return integrate(
        predict,
        add_noise(vocal, noise, sigmas[0]),
        sigmas,
        settings,
        renoise=lambda: draw_noise(generators, noise.shape[1:]).to(noise),
        on_step=on_step,
    )

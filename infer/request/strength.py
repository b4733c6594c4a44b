"""A strength between 0 and 1 for adapters that never met one: the vocal counts less by guidance over it."""

from infer.request.record import GenerationSettings
from models.adapters.adapter import AdapterCard
from models.flow.options import BRIDGES
from models.flow.sampler import GUIDING_VOCALS

WHOLE_OR_NONE = (1.0, 1.0)
"""strength_range of an adapter that was trained with the whole vocal, and without it."""


def is_guided(settings: GenerationSettings, card: AdapterCard) -> bool:
    """Whether the strength becomes a guidance: where the vocal has a path of its own and is not in the noise, too."""
    conditioning = card.conditioning
    mixed = conditioning.objective in BRIDGES and conditioning.a_max > 0
    return (
        0 < settings.ref_strength < 1
        and card.strength_range == WHOLE_OR_NONE
        and conditioning.can_be_guided
        and not mixed
        and settings.sampler.guidance in GUIDING_VOCALS
    )


def with_guided_strength(settings: GenerationSettings, card: AdapterCard) -> GenerationSettings:
    """The settings that a network is asked with: at strength r, F(text) + r w (F(text, vocal) - F(text)).

    w is the scale of the guidance over the vocal, 1 where there is none; the steps are those of that guidance, or all.
    So 1 is the whole vocal, and towards 0 the band comes near that of strength 0. Settings under which the strength
    does not become a guidance stay as they are.
    """
    if not is_guided(settings, card):
        return settings
    scale = settings.sampler.vocal_guidance_scale
    guided = {
        "vocal_guidance_scale": settings.ref_strength * (1.0 if scale is None else scale),
        "vocal_guidance": "cfg",
        "vocal_guidance_interval": settings.sampler.vocal_guidance_interval or (0.0, 1.0),
    }
    return settings.model_copy(update={"ref_strength": 1.0, "sampler": settings.sampler.model_copy(update=guided)})

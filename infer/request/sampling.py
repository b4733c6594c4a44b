"""How a request is sampled: as flags or --set say, else as its adapter recommends, or the variant of its base."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common.bases import recorded_spec
from common.config import apply_setting, check_config
from common.errors import UserError
from common.progress import say
from infer.request.record import SettingsOverride
from models.flow.sampler import GUIDING_VOCALS, SamplerSettings
from models.loading.checkpoint import resolve_checkpoint, spec_of, variant_of

if TYPE_CHECKING:
    from infer.request.request import AdapterSelection, GenerationRequest


def recommended_sampler(selection: "AdapterSelection") -> SamplerSettings:
    """The adapter's sampler; where the checkpoint is of another variant than it was trained on, that variant's own."""
    card, spec = selection.card, spec_of(selection.checkpoint)
    if len(spec.samplings) == 1 or spec is not recorded_spec(card.base):
        return card.sampler
    variant = variant_of(resolve_checkpoint(selection.checkpoint, [spec.parts.transformer]))
    trained = card.base and card.base.variant
    if variant == trained:
        return card.sampler
    own = SamplerSettings.of(spec.samplings[variant])
    changed = [
        f"{name} {value:g} (not {getattr(card.sampler, name):g})"
        for name, value in asdict(spec.samplings[variant]).items()
        if value != getattr(card.sampler, name)
    ]
    say(
        f"{selection.folders[0]}: trained on {trained or 'an unknown variant'} of {spec.name}, {selection.checkpoint} "
        f"is {variant}; sampled as {variant} is: {', '.join(changed) or 'alike'}."
    )
    return own


def sampler_values(recommended: SamplerSettings, request: "GenerationRequest") -> dict[str, Any]:
    """What was chosen, over what is recommended: without guidance over the vocal where none can be.

    Raises UserError for a setting that is unknown or given twice.
    """
    chosen = _chosen(request)
    if chosen.get("guidance", recommended.guidance) not in GUIDING_VOCALS:
        recommended = recommended.model_copy(
            update={"vocal_guidance_scale": None, "vocal_guidance": None, "vocal_guidance_interval": None}
        )
    return recommended.model_dump() | chosen


def _chosen(request: "GenerationRequest") -> dict[str, Any]:
    """Settings of the sampler that flags or --set give."""
    flags, chosen = _sampler_flags(request), {}
    for setting in request.settings:
        apply_setting(chosen, setting)
    check_config(SettingsOverride, chosen, "infer generate")
    chosen = chosen.get("sampler", {})
    if twice := sorted(flags.keys() & chosen.keys()):
        flag = "infer-steps" if twice[0] == "steps" else twice[0].replace("_", "-")
        raise UserError(f"--set sampler.{twice[0]} and --{flag} are one setting. Give one of them.")
    return flags | chosen


def _sampler_flags(request: "GenerationRequest") -> dict[str, Any]:
    return given(
        steps=request.infer_steps,
        scheduler=request.scheduler,
        omega_scale=request.omega_scale,
        guidance=request.guidance,
        guidance_scale=request.guidance_scale,
        guidance_interval=request.guidance_interval,
        guidance_interval_decay=request.guidance_interval_decay,
        min_guidance_scale=request.min_guidance_scale,
        vocal_guidance_scale=request.vocal_guidance_scale,
        erg=request.erg,
    )


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}

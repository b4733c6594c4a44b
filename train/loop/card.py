"""adapter.json of a run: all that inference needs of what was trained, and on what."""

from collections.abc import Mapping
from typing import Any

from common.bases import BaseOrigin, BaseSpec
from models.adapters.adapter import AdapterCard, LoraCard
from models.flow.sampler import SamplerSettings
from shards.manifest import Manifest
from train.config import TrainingConfig
from train.loop.module import AccompanimentModule, conditioning_of

EARLY_GUIDANCE: Mapping[str, Any] = {
    "vocal_guidance": "cfg",
    "vocal_guidance_scale": 2.5,
    "vocal_guidance_interval": (0.7, 1.0),
}
"""Over the vocal near pure noise, where it decides: what follows it best in docs/objectives.md, for a third pass in
about half of the steps."""


def recommended_sampler(config: TrainingConfig, spec: BaseSpec, variant: str) -> SamplerSettings:
    """Sampler settings that an adapter recommends: those of its base, of its training, and what measured best in its
    mode."""
    accompaniment = config.accompaniment
    follows_well = accompaniment.mode == "controlnet" or accompaniment.lead_sheet is not None
    early = follows_well and accompaniment.output_type == "accompaniment"
    return trained_sampler(config, spec, variant).model_copy(update=EARLY_GUIDANCE if early else {})


def trained_sampler(config: TrainingConfig, spec: BaseSpec, variant: str) -> SamplerSettings:
    """As upstream samples the variant that a run trains on, but at the run's shift where noise levels are shifted."""
    sampler = SamplerSettings.of(spec.samplings[variant])
    is_shifted = spec.noise_levels[variant].only is None
    return sampler.model_copy(update={"shift": config.shift} if is_shifted else {})


def lora_of(config: TrainingConfig) -> LoraCard:
    """The LoRA of a run, in the terms of adapter.json."""
    lora = config.lora
    return LoraCard(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=lora.target_modules,
        blocks=lora.blocks,
    )


def card_of(
    module: AccompanimentModule, manifest: Manifest, base: BaseOrigin, figures: Mapping[str, float]
) -> AdapterCard:
    """The card of what `module` holds now; `figures` are those of its latest validation."""
    config = module.config
    assert manifest.statistics is not None
    spec = manifest.spec
    shared = (*spec.parts.encoders, spec.lyric_vocabulary)  # but not what separated the songs
    return AdapterCard(
        conditioning=conditioning_of(config),
        output_type=config.accompaniment.output_type,
        reference_strength=config.accompaniment.default_strength,
        strength_range=config.accompaniment.strengths,
        lora=lora_of(config),
        lora_weight=1.0,
        sampler=recommended_sampler(config, spec, module.transformer.variant_name),
        statistics=manifest.statistics,
        vocal_lufs=manifest.vocal_lufs,
        lyrics_language=manifest.lyrics_language,
        lyrics_content=config.accompaniment.lyrics,
        base=base,
        base_fingerprint=module.base_fingerprint,
        networks={name: value for name, value in manifest.fingerprint.networks.items() if name in shared},
        shards_fingerprint=manifest.fingerprint.digest,
        init_shards_fingerprint=None if module.started is None else module.started.shards_fingerprint,
        val_fraction=config.val_fraction,
        epoch=module.data_epoch,
        step=module.global_step,
        validation=dict(figures),
    )

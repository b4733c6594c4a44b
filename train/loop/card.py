"""adapter.json of a run: all that inference needs of what was trained, and on what."""

from collections.abc import Mapping

from common.base import BaseSpec
from models.acestep1.text.lyric_tokens import VOCABULARY_FILE
from models.adapters.adapter import AdapterCard, LoraCard
from models.flow.sampler import SamplerSettings
from models.loading.family import CODEC, TEXT
from shards.schema import Manifest
from train.loop.module import AccompanimentModule, conditioning_of

SHARED_NETWORKS = (CODEC, TEXT, VOCABULARY_FILE)
"""Networks that inference must share with the data; what separated the songs it need not."""


def card_of(
    module: AccompanimentModule, manifest: Manifest, base: BaseSpec, figures: Mapping[str, float]
) -> AdapterCard:
    """The card of what `module` holds now; `figures` are those of its latest validation."""
    config = module.config
    assert manifest.statistics is not None
    return AdapterCard(
        conditioning=conditioning_of(config),
        output_type=config.accompaniment.output_type,
        reference_strength=config.accompaniment.reference_strength,
        strength_range=config.accompaniment.strengths,
        lora=LoraCard(
            r=config.lora.r,
            lora_alpha=config.lora.lora_alpha,
            use_rslora=config.lora.use_rslora,
            use_dora=config.lora.use_dora,
            target_modules=config.lora.target_modules,
            blocks=config.lora.blocks,
        ),
        lora_weight=1.0,
        sampler=SamplerSettings(shift=config.shift),
        statistics=manifest.statistics,
        vocal_lufs=manifest.vocal_lufs,
        lyrics_language=manifest.lyrics_language,
        base=base,
        base_fingerprint=module.base_fingerprint,
        networks={name: value for name, value in manifest.fingerprint.networks.items() if name in SHARED_NETWORKS},
        shards_fingerprint=manifest.fingerprint.digest,
        epoch=module.data_epoch,
        step=module.global_step,
        validation=dict(figures),
    )

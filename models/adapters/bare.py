"""A base model without any adapter, as a card: text2music, which no vocal reaches."""

from common.bases import BaseOrigin, BaseSpec
from common.latents import LatentStatistics
from models.adapters.adapter import AdapterCard
from models.adapters.conditioning import Conditioning
from models.flow.sampler import SamplerSettings

BARE_VOCAL_LUFS = -18.0
"""Loudness of a vocal beside a band of the base model, which training gave no level to stand at."""


def bare_card(spec: BaseSpec, base_fingerprint: str, variant: str = "base") -> AdapterCard:
    """The card of no adapter: strength 0, no LoRA, the vocal neither in the noise nor in the network.

    A base model with a slot for a source can be given the vocal there, at a strength above 0.
    """
    channels, rows = spec.latents.channels, spec.latents.rows
    return AdapterCard(
        conditioning=Conditioning(
            mode="context" if spec.has_source_slot else "controlnet",
            a_max=0.0,
            activity_gate=False,
            source_projection=False,
            control=None,
        ),
        output_type="accompaniment",
        reference_strength=0.0,
        strength_range=(0.0, 1.0 if spec.has_source_slot else 0.0),
        lora=None,
        sampler=SamplerSettings.of(spec.samplings[variant]),
        statistics=LatentStatistics(silence=((0.0,) * rows,) * channels, mean=(0.0,) * channels, std=(1.0,) * channels),
        vocal_lufs=BARE_VOCAL_LUFS,
        base=BaseOrigin(model=spec.name, variant=variant if len(spec.samplings) > 1 else None),
        base_fingerprint=base_fingerprint,
        shards_fingerprint="",
        epoch=0,
        step=0,
    )

"""Settings of ACE-Step 1.5's networks, as the config.json of the original layout has them, and what diffusers' classes
are called with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.bases import ACE_STEP_15, Sampling
from common.config import SettingsDict
from common.errors import UserError

STANDARD: SettingsDict = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "audio_acoustic_hidden_dim": 64,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "in_channels": 192,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
    "patch_size": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": 128,
    "text_hidden_dim": 1024,
    "timbre_hidden_dim": 64,
}
"""2 B: base, sft and turbo."""

XL: SettingsDict = STANDARD | {
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
}
"""4 B: its condition encoder is as large as that of 2 B."""

VAE: SettingsDict = {
    "_class_name": "AutoencoderOobleck",
    "audio_channels": 2,
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "downsampling_ratios": [2, 4, 4, 6, 10],
    "encoder_hidden_size": 128,
    "sampling_rate": 48_000,
}
"""Of every variant."""

TINY_TRANSFORMER: SettingsDict = STANDARD | {
    "encoder_hidden_size": 64,
    "encoder_intermediate_size": 128,
    "encoder_num_attention_heads": 2,
    "encoder_num_key_value_heads": 1,
    "head_dim": 32,
    "hidden_size": 160,
    "intermediate_size": 256,
    "num_attention_heads": 5,
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 1,
}
TINY_VAE: SettingsDict = VAE | {
    "channel_multiples": [32, 48, 128],
    "decoder_channels": 2,
    "downsampling_ratios": [60, 4, 8],
    "encoder_channels": 2,
}
TINY_TEXT_ENCODER: SettingsDict = {
    "architectures": ["Qwen3Model"],
    "head_dim": 32,
    "hidden_size": 1024,
    "intermediate_size": 64,
    "model_type": "qwen3",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 640,
}
"""The bundle in models/tiny15/. Text states stay 1024 wide: shards hold them at that width."""

SHARED = (
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "sliding_window",
)
OF_TRANSFORMER = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "in_channels",
    "audio_acoustic_hidden_dim",
    "patch_size",
    "layer_types",
    "encoder_hidden_size",
    "is_turbo",
    "model_version",
)
OF_CONDITION_ENCODER = (
    "text_hidden_dim",
    "timbre_hidden_dim",
    "num_lyric_encoder_hidden_layers",
    "num_timbre_encoder_hidden_layers",
)
_TELLING = [key for key in STANDARD if key in OF_TRANSFORMER]
PUBLISHED_PARTS: Mapping[str, Sequence[SettingsDict]] = {
    ACE_STEP_15.parts.transformer: [{key: sizes[key] for key in _TELLING} for sizes in (STANDARD, XL)],
    ACE_STEP_15.parts.codec: [VAE],
    ACE_STEP_15.parts.text_encoder: [{"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}],
}
"""Settings of each part by which it is known, in both layouts; latents serve all sizes of the transformer."""
TINY_PARTS: Mapping[str, Sequence[SettingsDict]] = {
    ACE_STEP_15.parts.transformer: [TINY_TRANSFORMER],
    ACE_STEP_15.parts.codec: [TINY_VAE],
    ACE_STEP_15.parts.text_encoder: [TINY_TEXT_ENCODER],
}
SIZED_APART = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
"""Settings of the condition encoder that are named encoder_... where they are not the transformer's."""


@dataclass(frozen=True)
class NetworkSettings:
    """What diffusers' classes are called with."""

    transformer: SettingsDict
    condition_encoder: SettingsDict


def network_settings(config: Mapping[str, Any], name: str) -> NetworkSettings:
    """Of a config.json in the original layout; `name` is for errors.

    Raises UserError for settings that diffusers' networks do not have.
    """
    for key, only in (("hidden_act", "silu"), ("use_sliding_window", True)):
        if config.get(key, only) != only:
            raise UserError(f"{name}: {key} is {config[key]!r}; Backline opens networks with {only!r} alone.")
    shared = _named(config, SHARED)
    apart = {key: config[own] for key in SIZED_APART if (own := _own_name(key, config)) in config}
    return NetworkSettings(
        transformer=shared | _named(config, OF_TRANSFORMER),
        condition_encoder=shared | _named(config, OF_CONDITION_ENCODER) | apart,
    )


def _own_name(key: str, config: Mapping[str, Any]) -> str:
    return f"encoder_{key}" if f"encoder_{key}" in config else key


def _named(config: Mapping[str, Any], keys: tuple[str, ...]) -> SettingsDict:
    return {key: config[key] for key in keys if key in config}


@dataclass(frozen=True)
class Variant:
    """Which checkpoint of the family it is, as far as its config says."""

    kind: str
    """A name of ACE_STEP_15.samplings."""
    is_xl: bool

    @property
    def sampling(self) -> Sampling:
        """How upstream samples it."""
        return ACE_STEP_15.samplings[self.kind]


def variant_of(config: Mapping[str, Any], called: str = "") -> Variant:
    """Of a config.json of the transformer, in either layout, in a folder or repository that is `called` so.

    The name tells apart only what is distilled at several shifts, of which no setting of the networks speaks.
    """
    version = str(config.get("model_version") or "")
    kinds = [kind for kind in ("turbo", "sft") if kind in version]
    kind = "turbo" if config.get("is_turbo") else (*kinds, "base")[0]
    if kind == "turbo":
        told = f"{version} {called}".replace("_", "-")
        kind = next((finer for finer in ACE_STEP_15.samplings if finer.startswith("turbo-") and finer in told), kind)
    return Variant(kind, is_xl=config.get("hidden_size", STANDARD["hidden_size"]) >= XL["hidden_size"])

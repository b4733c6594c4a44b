"""Published sizes make networks of the published names, shapes and counts."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

from common.bases import ACE_STEP_15
from models.acestep15.codec import OobleckCodec, OobleckConfig
from models.acestep15.names import diffusers_name
from models.acestep15.sizes import STANDARD, XL, network_settings, variant_of
from models.acestep15.text import build_text_network
from models.loading.acestep15 import build_network
from models.loading.weights import network_config, shapes_of

Shapes = dict[str, tuple[int, ...]]


def attention(name: str, width: int, heads: int) -> Shapes:
    found: Shapes = {f"{name}.{each}_norm.weight": (128,) for each in "qk"}
    found |= {f"{name}.{each}_proj.weight": (8 * 128, width) for each in "kv"}
    return found | {f"{name}.q_proj.weight": (heads * 128, width), f"{name}.o_proj.weight": (width, heads * 128)}


def feed_forward(name: str, width: int, inner: int) -> Shapes:
    found = {f"{name}.{each}_proj.weight": (inner, width) for each in ("gate", "up")}
    return found | {f"{name}.down_proj.weight": (width, inner)}


def decoder(width: int, inner: int, layers: int, heads: int) -> Shapes:
    found: Shapes = {
        "decoder.proj_in.1.weight": (width, 192, 2), "decoder.proj_in.1.bias": (width,),
        "decoder.proj_out.1.weight": (width, 64, 2), "decoder.proj_out.1.bias": (64,),
        "decoder.condition_embedder.weight": (width, 2048), "decoder.condition_embedder.bias": (width,),
        "decoder.norm_out.weight": (width,), "decoder.scale_shift_table": (1, 2, width),
    }  # fmt: skip
    for time in ("time_embed", "time_embed_r"):
        for layer, outputs, inputs in (("linear_1", 1, 256), ("linear_2", 1, width), ("time_proj", 6, width)):
            found[f"decoder.{time}.{layer}.weight"] = (outputs * width, inputs)
            found[f"decoder.{time}.{layer}.bias"] = (outputs * width,)
    for layer in range(layers):
        name = f"decoder.layers.{layer}"
        found |= attention(f"{name}.self_attn", width, heads) | attention(f"{name}.cross_attn", width, heads)
        found |= feed_forward(f"{name}.mlp", width, inner) | {f"{name}.scale_shift_table": (1, 6, width)}
        found |= {f"{name}.{norm}_norm.weight": (width,) for norm in ("self_attn", "cross_attn", "mlp")}
    return found


def encoder() -> Shapes:
    found: Shapes = {"null_condition_emb": (1, 1, 2048), "encoder.text_projector.weight": (2048, 1024)}
    found["encoder.timbre_encoder.special_token"] = (1, 1, 2048)
    for which, layers, inputs in (("lyric", 8, 1024), ("timbre", 4, 64)):
        name = f"encoder.{which}_encoder"
        found |= {f"{name}.embed_tokens.weight": (2048, inputs), f"{name}.embed_tokens.bias": (2048,)}
        found[f"{name}.norm.weight"] = (2048,)
        for layer in range(layers):
            each = f"{name}.layers.{layer}"
            found |= attention(f"{each}.self_attn", 2048, 16) | feed_forward(f"{each}.mlp", 2048, 6144)
            found |= {f"{each}.{norm}_layernorm.weight": (2048,) for norm in ("input", "post_attention")}
    return found


@pytest.mark.parametrize(
    ("config", "expected", "billions"),
    [(STANDARD, decoder(2048, 6144, 24, 16), 1.575), (XL, decoder(2560, 9728, 32, 32), 4.169)],
    ids=["2 B", "XL"],
)
def test_published_sizes_have_the_published_names_shapes_and_counts(config, expected, billions, tmp_path):
    network = build_network(network_settings(config, "published"), config, tmp_path)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    shapes = shapes_of(network)
    assert shapes.pop("condition_encoder.silence_latent") == (1, 15_000, 64)
    assert shapes == {diffusers_name(name): shape for name, shape in (expected | encoder()).items()}
    assert round(network.transformer.num_parameters() / 1e9, 3) == billions
    assert round(network.condition_encoder.num_parameters() / 1e6) == 608


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "base"),
        ({"model_version": "sft"}, "sft"),
        ({"is_turbo": True}, "turbo"),
        ({"model_version": "turbo"}, "turbo"),
    ],
)
@pytest.mark.parametrize("config", [STANDARD, XL], ids=["2 B", "XL"])
def test_variants_are_told_by_their_config(config, changes, kind):
    variant = variant_of(config | changes)
    assert (variant.kind, variant.is_xl) == (kind, config is XL)
    sampled = (variant.sampling.steps, variant.sampling.shift, variant.sampling.guidance_scale)
    assert sampled == ((8, 3.0, 1.0) if kind == "turbo" else (50, 1.0, 7.0))


@pytest.mark.parametrize(
    ("called", "version", "kind", "shift"),
    [
        ("acestep-v15-turbo-shift1", "turbo", "turbo-shift1", 1.0),
        ("models--ACE-Step--acestep-v15-turbo-shift3", "turbo", "turbo-shift3", 3.0),
        ("mine", "turbo_shift1", "turbo-shift1", 1.0),
        ("acestep-v15-turbo-continuous", "turbo", "turbo-continuous", 3.0),
        ("acestep-v15-turbo", "turbo", "turbo", 3.0),
        ("turbo-shift1", "sft", "sft", 1.0),
    ],
)
def test_what_is_distilled_at_several_shifts_is_told_by_its_name(called, version, kind, shift):
    """And its noise levels are the points of its own sampling grid."""
    variant = variant_of(STANDARD | {"model_version": version}, called)
    assert (variant.kind, variant.sampling.shift) == (kind, shift)
    levels, steps = ACE_STEP_15.noise_levels[kind].only, variant.sampling.steps
    if levels is not None:
        even = [1 - step / steps for step in range(steps)]
        assert levels == pytest.approx([shift * t / (1 + (shift - 1) * t) for t in even], abs=5e-5)


def test_the_published_codec_has_the_names_and_shapes_of_diffusers_vae_and_the_published_count():
    published = {
        "encoder_hidden_size": 128, "downsampling_ratios": [2, 4, 4, 6, 10], "channel_multiples": [1, 2, 4, 8, 16],
        "decoder_channels": 128, "decoder_input_channels": 64, "audio_channels": 2, "sampling_rate": 48_000,
    }  # fmt: skip
    with torch.device("meta"):
        codec = OobleckCodec(network_config(OobleckConfig, published, "published"), encoder=True, decoder=True)
        vae = AutoencoderOobleck(**published)
    assert shapes_of(codec) == shapes_of(vae)
    assert round(sum(parameter.numel() for parameter in codec.parameters()) / 1e6, 1) == 168.7


def test_the_published_text_encoder_has_the_published_count(tmp_path):
    published = {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "model_type": "qwen3", "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1_000_000, "tie_word_embeddings": True, "vocab_size": 151_669,
    }  # fmt: skip
    network = build_text_network(published, tmp_path / "config.json")
    assert sum(parameter.numel() for parameter in network.parameters()) == 595_776_512
    assert (network.config.rope_parameters or {}).get("rope_theta") == 1_000_000
    assert network.config.hidden_size == ACE_STEP_15.text_width

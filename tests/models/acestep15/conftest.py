"""A small pipeline of diffusers with seeded random weights, and checkpoint folders that hold it in both layouts."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from diffusers.pipelines.ace_step.pipeline_ace_step import AceStepPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from models.acestep15.sizes import STANDARD, network_settings
from models.loading.weights import AnyModule

SMALL = STANDARD | {
    "head_dim": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_lyric_encoder_hidden_layers": 2,
    "num_timbre_encoder_hidden_layers": 1,
    "sliding_window": 8,
    "text_hidden_dim": 24,
}


def seeded(network: AnyModule, seed: int) -> AnyModule:
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        spread = 0.3 if tensor.ndim > 1 else 0.1
        drawn = torch.randn(tensor.shape, generator=generator) * spread
        tensor.copy_(drawn if tensor.ndim > 1 else 1 + drawn)
    return network.eval()


def make_vae() -> AutoencoderOobleck:
    """Weights as torch draws them, but for alpha and beta: that they are read is seen only where they are not alike."""
    torch.manual_seed(0)
    vae = AutoencoderOobleck(
        encoder_hidden_size=128, downsampling_ratios=[2, 4, 4, 6, 10], channel_multiples=[1] * 5, decoder_channels=4,
        sampling_rate=48_000,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith(("alpha", "beta")):
                weight.copy_(torch.randn(weight.shape) * 0.3)
    return vae.eval()


@pytest.fixture(scope="session")
def vae() -> AutoencoderOobleck:
    return make_vae()


def make_text_encoder() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=16, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    return seeded(Qwen3Model(config), 5)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Few words; it appends the end token by itself, as the published one does."""
    words = ["the", "band", "plays", "Fill", "Complete", "track", "with", "drums", "<|endoftext|>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate([*words, "?"])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A <|endoftext|>", special_tokens=[("<|endoftext|>", 8)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", unk_token="?")


def make_pipeline(*, is_turbo: bool) -> AceStepPipeline:
    settings = network_settings(SMALL | {"is_turbo": is_turbo}, "small")
    pipeline = AceStepPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(),
        tokenizer=make_tokenizer(),
        transformer=seeded(AceStepTransformer1DModel(**settings.transformer), 1),
        condition_encoder=seeded(AceStepConditionEncoder(**settings.condition_encoder), 2),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(request) -> AceStepPipeline:
    """The variant base, or what a test asks for."""
    return make_pipeline(is_turbo=getattr(request, "param", "base") == "turbo")


def original_name(part: str, name: str) -> str:
    """As the published file has it, told by hand: diffusers' names backwards."""
    if part == "condition_encoder" and name == "null_condition_emb":
        return name
    for ours, theirs in (
        ("to_out.0", "o_proj"), ("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("norm_q", "q_norm"),
        ("norm_k", "k_norm"), ("proj_in_conv", "proj_in.1"), ("proj_out_conv", "proj_out.1"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return f"{'decoder' if part == 'transformer' else 'encoder'}.{name}"


def original_weights(pipeline: AceStepPipeline) -> dict[str, Tensor]:
    weights = {}
    for part in ("transformer", "condition_encoder"):
        for name, weight in getattr(pipeline, part).state_dict().items():
            if name != "silence_latent":
                weights[original_name(part, name)] = weight.clone()
    return weights | {"tokenizer.quantizer.scale": torch.ones(1), "detokenizer.proj_out.bias": torch.ones(1)}


@pytest.fixture(scope="module")
def diffusers_folder(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diffusers")
    pipeline.transformer.save_pretrained(folder / "transformer", max_shard_size="40KB")
    pipeline.condition_encoder.save_pretrained(folder / "condition_encoder")
    pipeline.text_encoder.save_pretrained(folder / "text_encoder")
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def original_folder(pipeline, tmp_path_factory) -> Path:
    """Weights in two files, as those of XL are."""
    folder = tmp_path_factory.mktemp("original")
    room = folder / "acestep-v15-any"
    room.mkdir()
    turbo = {"is_turbo": pipeline.is_turbo, "model_type": "acestep", "vocab_size": 64_003}
    (room / "config.json").write_text(json.dumps(SMALL | turbo))
    weights = original_weights(pipeline)
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: weights[name] for name in held}, room / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    (room / "model.safetensors.index.json").write_text(json.dumps(index))
    silence = pipeline.condition_encoder.silence_latent.transpose(1, 2).contiguous()
    torch.save(silence, room / "silence_latent.pt")
    write_text_encoder(pipeline, folder / "Qwen3-Embedding-0.6B")
    return folder


def write_text_encoder(pipeline: AceStepPipeline, room: Path) -> None:
    """As a language model is stored: a prefix, a head, and the rotary base under its older name."""
    pipeline.tokenizer.save_pretrained(room)
    config = pipeline.text_encoder.config.to_dict()
    rotary = {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    (room / "config.json").write_text(json.dumps(config | rotary))
    weights = {f"model.{name}": weight.clone() for name, weight in pipeline.text_encoder.state_dict().items()}
    save_file(weights | {"lm_head.weight": torch.ones(16, 24)}, room / "model.safetensors")

"""A LoRA on ACE-Step 1.5: what it changes, and that others read it as we do."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.adapters.lora import LORA_FILE, attach_lora, load_lora, save_lora, trained_parameters
from models.loading.checkpoint import open_transformer

LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "gate_proj", "down_proj")
FRAMES = 11


def answer(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    text, rows = (torch.randn(1, count, 24, generator=generator) for count in (3, 2))
    conditions = network.condition(text, torch.ones(1, 3), rows, torch.ones(1, 2))
    latents = torch.randn(1, 64, 1, FRAMES, generator=generator)
    return network.decode(latents, torch.tensor([300.0]), conditions).sample


def attached(folder, **options):
    network = open_transformer(folder)
    report = attach_lora(network, rank=2, alpha=8, target_modules=LAYERS, **options)
    return network, report


@pytest.fixture(scope="module")
def trained(original_folder):
    """A network whose adapter changes much."""
    network, _ = attached(original_folder)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in trained_parameters(network).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


@pytest.fixture(scope="module")
def lora_folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    save_lora(trained, folder)
    return folder


def exported(folder, network, prefix):
    """A LoRA's weights as another program names them."""
    named = {}
    for name, weight in load_file(folder / LORA_FILE).items():
        layer, _, kind = name.partition(".lora_")
        named[f"{prefix}{network.exported_layer(layer)}.lora_{kind}"] = weight
    return named


def test_a_fresh_adapter_sits_on_the_transformer_alone_and_changes_nothing(original_folder):
    network, report = attached(original_folder, blocks=(1, 1))
    assert all(name.startswith("transformer.layers.1.") for name in report.modules)
    assert len(report.modules) == 2 * 4 + 2
    _, everywhere = attached(original_folder)
    assert len(everywhere.modules) == 2 * len(report.modules)
    with torch.no_grad():
        assert torch.equal(answer(network), answer(open_transformer(original_folder)))
    with pytest.raises(UserError, match=r"^lora\.target_modules: the transformer has no linear layer embed_tokens"):
        attach_lora(network, rank=2, alpha=2, target_modules=["embed_tokens"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_tensor_of_the_adapter(trained, checkpointing):
    if checkpointing:
        trained.enable_gradient_checkpointing()
    trained.zero_grad()
    answer(trained).square().mean().backward()
    trained.disable_gradient_checkpointing()
    parameters = trained_parameters(trained)
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters.values())


@torch.no_grad()
def test_what_is_saved_is_loaded_again(trained, lora_folder, original_folder):
    network = open_transformer(original_folder)
    before = answer(network)
    load_lora(network, lora_folder, name="again", weight=1.0)
    expected = answer(trained)
    torch.testing.assert_close(answer(network), expected, atol=1e-5, rtol=1e-5)
    assert (expected - before).abs().max() > 0.01


@torch.no_grad()
def test_diffusers_reads_the_layout_of_peft_with_the_same_outputs(
    pipeline, trained, lora_folder, original_folder, tmp_path
):
    folder = tmp_path / "peft"
    folder.mkdir()
    weights = exported(lora_folder, trained, "base_model.model.")
    assert "base_model.model.layers.0.cross_attn.o_proj.lora_B.weight" in weights
    assert "base_model.model.layers.1.mlp.gate_proj.lora_A.weight" in weights
    save_file(weights, folder / "adapter_model.safetensors")
    network = open_transformer(original_folder)
    network.transformer, network.condition_encoder = pipeline.transformer, pipeline.condition_encoder
    before = answer(network)
    pipeline.load_lora_weights(folder, weight_name="adapter_model.safetensors")
    made = answer(network)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(made, answer(trained), atol=1e-5, rtol=1e-5)
    assert torch.equal(answer(network), before)


@torch.no_grad()
def test_comfyuis_formula_on_the_original_weights_gives_the_same_outputs(
    trained, lora_folder, original_folder, tmp_path
):
    weights = exported(lora_folder, trained, trained.comfyui_prefix)
    room = original_folder / "acestep-v15-any"
    index = json.loads((room / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: tensor for file in set(index.values()) for name, tensor in load_file(room / file).items()}
    for name, update in weights.items():
        layer, found, _ = name.partition(".lora_B.")
        if found:
            target = f"decoder.{layer.removeprefix('diffusion_model.')}.weight"
            held[target] += update @ weights[f"{layer}.lora_A.weight"]
    merged = tmp_path / "merged" / "acestep-v15-any"
    merged.mkdir(parents=True)
    for name in ("config.json", "silence_latent.pt"):
        (merged / name).write_bytes((room / name).read_bytes())
    save_file(held, merged / "model.safetensors")
    torch.testing.assert_close(answer(open_transformer(merged)), answer(trained), atol=1e-5, rtol=1e-5)

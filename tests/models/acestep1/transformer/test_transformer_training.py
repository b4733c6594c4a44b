"""The transformer as files, with adapters, in training and in bfloat16."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from models.acestep1.transformer.transformer import ACEStepTransformer2DModel

LORA_TARGETS = ["speaker_embedder", "linear_q", "linear_k", "linear_v", "to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture
def transformer(golden_transformer):
    return golden_transformer("transformer").requires_grad_(True)


@pytest.fixture
def inputs(golden):
    return golden("transformer").inputs


@pytest.fixture
def arguments(inputs):
    """The golden's call of forward."""
    return {
        "hidden_states": inputs["hidden_states"],
        "attention_mask": inputs["attention_mask"],
        "encoder_text_hidden_states": inputs["text"],
        "text_attention_mask": inputs["text_mask"],
        "speaker_embeds": inputs["speaker"],
        "lyric_token_idx": inputs["lyric_ids"],
        "lyric_mask": inputs["lyric_mask"],
        "timestep": inputs["timestep"],
    }


# Saving and loading


@torch.no_grad()
@pytest.mark.parametrize("low_memory", [True, False])
def test_saved_and_loaded_is_the_same_network(transformer, arguments, tmp_path, low_memory):
    transformer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = ACEStepTransformer2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(loaded(**arguments).sample, transformer(**arguments).sample)
    weights, expected = loaded.state_dict(), transformer.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@torch.no_grad()
def test_loading_in_bfloat16_and_back_rounds_weights_but_no_table(transformer, arguments, tmp_path):
    transformer.save_pretrained(tmp_path)
    loaded = ACEStepTransformer2DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).float()
    rounded = transformer.bfloat16().float()
    assert torch.equal(loaded(**arguments).sample, rounded(**arguments).sample)


# Adapters


def lora_config(**options):
    return LoraConfig(r=4, lora_alpha=4, target_modules=LORA_TARGETS, **options)


@torch.no_grad()
@pytest.mark.parametrize("use_dora", [False, True])
def test_fresh_lora_changes_nothing(transformer, arguments, use_dora):
    before = transformer(**arguments).sample
    transformer.add_adapter(lora_config(use_dora=use_dora))
    after = transformer(**arguments).sample
    if use_dora:
        torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    else:
        assert torch.equal(after, before)


@torch.no_grad()
def test_an_adapter_is_saved_and_loaded_under_upstreams_names(transformer, arguments, tmp_path, goldens_folder):
    before = transformer(**arguments).sample
    transformer.add_adapter(lora_config(init_lora_weights=False))
    adapted = transformer(**arguments).sample
    assert not torch.equal(adapted, before)
    transformer.save_lora_adapter(tmp_path)
    written = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    upstreams = load_file(goldens_folder / "lora_pytorch_lora_weights.safetensors")
    assert {name: tensor.shape for name, tensor in written.items()} == {n: t.shape for n, t in upstreams.items()}

    transformer.delete_adapters("default")
    assert torch.equal(transformer(**arguments).sample, before)
    transformer.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    torch.testing.assert_close(transformer(**arguments).sample, adapted, atol=1e-5, rtol=0)


# Training


def training_gradients(transformer, arguments):
    """Gradients of a step with dropout on, of whatever is trainable."""
    torch.manual_seed(3)
    transformer.zero_grad()
    transformer(**arguments).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in transformer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_no_gradient(transformer, arguments, frozen):
    """Trained whole in train mode, or frozen in eval mode with an adapter, as `train run` has it."""
    if frozen:
        transformer.requires_grad_(False)
        transformer.add_adapter(lora_config(init_lora_weights=False))
    transformer.train(not frozen)
    plain = training_gradients(transformer, arguments)
    transformer.enable_gradient_checkpointing()
    calls = []
    block = transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = training_gradients(transformer, arguments)
    assert len(calls) == 2, "the block runs again for the backward pass"
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    with torch.no_grad():
        transformer(**arguments)
    assert len(calls) == 3, "no checkpointing without gradients"


# bfloat16


@torch.no_grad()
def test_a_bfloat16_network_stays_close_and_takes_any_input_dtype(transformer, arguments):
    exact = transformer(**arguments).sample
    rough = transformer.bfloat16()(**arguments).sample
    assert rough.dtype == torch.bfloat16
    assert rough.isfinite().all()
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()
    halves = {n: t.half() if t.is_floating_point() and n != "timestep" else t for n, t in arguments.items()}
    again = transformer(**halves).sample
    assert (again.float() - exact).norm() < 0.02 * exact.norm()


def test_autocast_to_bfloat16_stays_close_and_trains(transformer, arguments, inputs):
    with torch.no_grad():
        exact = transformer(**arguments).sample
    transformer.requires_grad_(False)
    transformer.add_adapter(lora_config(init_lora_weights=False))
    transformer.train()
    transformer.enable_gradient_checkpointing()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sample = transformer(**arguments | {"attention_mask": inputs["attention_mask_padded"]}).sample
    sample.float().square().mean().backward()
    gradients = [p.grad for p in transformer.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    transformer.disable_lora()
    transformer.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = transformer(**arguments).sample
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()

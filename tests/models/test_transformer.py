import gzip
import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from common.errors import UserError
from models.attention import CrossAttention, LinearAttention, linear_attention, rotary_table, rotate
from models.timestep import timestep_sinusoid
from models.transformer import ACEStepTransformer2DModel, Conditions, cross_norm

LORA_TARGETS = ["speaker_embedder", "linear_q", "linear_k", "linear_v", "to_q", "to_k", "to_v", "to_out.0"]
CPU = torch.device("cpu")


@pytest.fixture
def upstream(golden):
    return golden("transformer")


@pytest.fixture
def transformer(upstream):
    lyric = upstream.notes["lyric_encoder_args"]
    transformer = ACEStepTransformer2DModel(
        **upstream.notes["config"],
        lyric_encoder_heads=lyric["attention_heads"],
        lyric_encoder_ff=lyric["linear_units"],
        lyric_encoder_layers=lyric["num_blocks"],
    )
    transformer.load_state_dict(upstream.weights)
    return transformer.eval()


@pytest.fixture
def inputs(upstream):
    return upstream.inputs


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


@pytest.fixture
def dropped_lyrics(inputs):
    return {"lyric_token_idx": inputs["lyric_ids_dropped"], "lyric_mask": inputs["lyric_mask_dropped"]}


@pytest.fixture
def ssl_features(inputs):
    return [[inputs[f"ssl.{name}.{item}"] for item in range(2)] for name in ("mert", "m-hubert")]


@pytest.fixture
def conditions(transformer, inputs):
    with torch.no_grad():
        return transformer.encode(
            inputs["text"], inputs["text_mask"], inputs["speaker"], inputs["lyric_ids"], inputs["lyric_mask"]
        )


@pytest.fixture
def outputs(transformer):
    """What each named module of the transformer gives, filled as it runs."""
    found = {}
    for name, module in transformer.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: found.update({name: output}))
    return found


def assert_close(actual, expected):
    """Samples within 1e-5 (a wrong eps of a norm misses by 1.4e-5), larger numbers in proportion."""
    size = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-5 * (1 if size < 10 else size), rtol=0)


# Against upstream


@torch.no_grad()
def test_forward_and_its_inner_outputs_match_upstream(transformer, outputs, arguments, ssl_features, upstream):
    expected = upstream.expected
    velocity = transformer(**arguments, ssl_hidden_states=ssl_features)
    assert_close(velocity.sample, expected["sample"])
    for index in range(3):
        assert_close(outputs[f"transformer_blocks.{index}"], expected[f"block_{index}"])
    for name in ("norm1", "attn", "cross_attn", "ff"):
        assert_close(outputs[f"transformer_blocks.0.{name}"], expected[f"block_0_{name}"])
    assert_close(outputs["proj_in"], expected["proj_in"])
    assert_close(outputs["timestep_embedder"], expected["embedded_timestep"])
    assert_close(outputs["t_block"], expected["temb"])
    assert [name for name, _ in velocity.projection_losses] == ["mert", "m-hubert"]
    assert_close(velocity.projection_losses[0][1], expected["proj_loss_mert"][0])
    assert_close(velocity.projection_losses[1][1], expected["proj_loss_m_hubert"][0])


def test_tables_match_upstream_exactly(transformer, inputs, upstream):
    table = rotary_table(37, 32, theta=1e6, device=CPU)
    assert torch.equal(table.cos, upstream.expected["rope_cos"])
    assert torch.equal(table.sin, upstream.expected["rope_sin"])
    assert_close(timestep_sinusoid(inputs["timestep"]), upstream.expected["time_proj"])


def test_conditions_match_upstream(conditions, upstream):
    assert_close(conditions.states, upstream.expected["encoder_hidden_states"])
    assert torch.equal(conditions.mask, upstream.expected["encoder_hidden_mask"].bool())


@torch.no_grad()
def test_dropped_lyrics_match_upstream(transformer, arguments, dropped_lyrics, inputs, upstream):
    assert_close(transformer(**arguments | dropped_lyrics).sample, upstream.expected["sample_lyrics_dropped"])
    conditions = transformer.encode(
        inputs["text"],
        inputs["text_mask"],
        inputs["speaker"],
        inputs["lyric_ids_dropped"],
        inputs["lyric_mask_dropped"],
    )
    assert_close(conditions.states, upstream.expected["encoder_hidden_states_lyrics_dropped"])


@torch.no_grad()
def test_a_padded_latent_mask_matches_upstream(transformer, outputs, arguments, inputs, upstream):
    velocity = transformer(**arguments | {"attention_mask": inputs["attention_mask_padded"]})
    assert_close(velocity.sample, upstream.expected["sample_padded_attention_mask"])
    assert_close(outputs["transformer_blocks.0"], upstream.expected["block_0_padded"])
    assert_close(outputs["transformer_blocks.0.attn"], upstream.expected["block_0_attn_padded"])
    assert_close(outputs["transformer_blocks.0.cross_attn"], upstream.expected["block_0_cross_attn_padded"])


@torch.no_grad()
def test_the_control_hook_matches_upstream(transformer, outputs, arguments, inputs, upstream):
    velocity = transformer(
        **arguments,
        block_controlnet_hidden_states=inputs["controlnet_hidden"],
        controlnet_scale=upstream.notes["controlnet_scale"],
    )
    assert_close(velocity.sample, upstream.expected["sample_controlnet"])
    assert_close(outputs["transformer_blocks.0"], upstream.expected["block_0_controlnet"])
    assert_close(cross_norm(upstream.expected["proj_in"], inputs["controlnet_hidden"]), upstream.expected["cross_norm"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "length"), [("minus5", 32), ("plus3", 40)])
def test_other_output_lengths_match_upstream(transformer, inputs, conditions, upstream, name, length):
    velocity = transformer.decode(inputs["hidden_states"], inputs["timestep"], conditions, output_length=length)
    assert_close(velocity.sample, upstream.expected[f"sample_output_length_{name}"])


@torch.no_grad()
def test_tables_rounded_to_bfloat16_match_upstreams_training(transformer, arguments, upstream):
    transformer.table_rounded_to = torch.bfloat16
    assert_close(transformer(**arguments).sample, upstream.expected["sample_bf16_rounded_tables"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_match_upstream(transformer, arguments, dropped_lyrics, ssl_features, upstream, checkpointing):
    if checkpointing:
        transformer.enable_gradient_checkpointing()
        switch_on_training_without_dropout(transformer)
    velocity = transformer(**arguments | dropped_lyrics, ssl_hidden_states=ssl_features)
    losses = [loss for _, loss in velocity.projection_losses]
    loss = velocity.sample.square().mean() + torch.stack(losses).mean()
    loss.backward()
    assert_close(loss.detach(), upstream.expected["grad_loss"][0])
    gradients = {name: parameter.grad for name, parameter in transformer.named_parameters()}
    for key, expected in upstream.expected.items():
        if key.startswith("grad."):
            assert_close(gradients[key.removeprefix("grad.")], expected)
    untouched = [name for name, gradient in gradients.items() if gradient is None]
    assert sorted(untouched) == sorted(upstream.notes["params_without_gradient"])
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


def test_the_published_network_has_exactly_the_published_names_and_shapes(goldens_folder):
    manifest = json.loads(gzip.decompress((goldens_folder / "published_manifest.json.gz").read_bytes()))
    published = manifest["ace_step_transformer"]["tensors"]
    with torch.device("meta"):
        transformer = ACEStepTransformer2DModel()
    assert {name: list(tensor.shape) for name, tensor in transformer.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 3_305_659_264
    assert not list(transformer.buffers())
    assert transformer.config["num_attention_heads"] == 20
    assert transformer.config["lyric_encoder_heads"] == 16
    assert transformer.config["rope_theta"] == 1e6


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


# Properties of the pieces


def test_rotate_is_what_the_formula_says():
    x = torch.randn(1, 1, 3, 8)
    table = rotary_table(3, 8, theta=10.0, device=CPU)
    expected = torch.empty(3, 8)
    for position in range(3):
        for element in range(8):
            angle = torch.tensor(position * 10.0 ** (-2 * (element % 4) / 8))
            companion = -x[0, 0, position, element + 1] if element % 2 == 0 else x[0, 0, position, element - 1]
            expected[position, element] = x[0, 0, position, element] * angle.cos() + companion * angle.sin()
    torch.testing.assert_close(rotate(x, table)[0, 0], expected, atol=1e-6, rtol=0)


def test_linear_attention_is_a_weighted_mean_of_values():
    q, k, v = torch.rand(3, 2, 2, 5, 4).unbind()
    weights = q @ k.transpose(-1, -2)
    mean = (weights / weights.sum(-1, keepdim=True)) @ v
    torch.testing.assert_close(linear_attention(q, k, v), mean)


def test_the_linear_attention_core_is_float32_under_autocast():
    q, k, v = torch.rand(3, 1, 1, 2000, 8).unbind()
    exact = linear_attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_attention(q, k, v), exact)


def bias_of(attention):
    return attention.to_out[0].bias.expand(2, 5, -1)


@torch.no_grad()
def test_fully_masked_rows_give_the_bias_and_no_nan():
    states, nothing = torch.randn(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    table = rotary_table(5, 8, theta=1e6, device=CPU)
    attention = LinearAttention(16, 2)
    assert torch.equal(attention(states, nothing, table), bias_of(attention))
    cross = CrossAttention(16, 2)
    for masks in ((nothing, None), (nothing, nothing), (None, nothing)):
        found = cross(
            states, states, state_mask=masks[0], condition_mask=masks[1], state_table=table, condition_table=table
        )
        assert torch.equal(found, bias_of(cross))


# Properties of the whole


@torch.no_grad()
def test_an_item_in_a_batch_of_equal_lengths_is_as_alone(transformer, arguments):
    together = transformer(**arguments).sample
    for item in range(2):
        alone = transformer(**{name: tensor[item : item + 1] for name, tensor in arguments.items()}).sample
        torch.testing.assert_close(alone[0], together[item], atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_masks_and_masks_of_ones_are_the_same(transformer, inputs, conditions):
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    masked = transformer.decode(latents, timestep, conditions, mask=inputs["attention_mask"])
    assert torch.equal(transformer.decode(latents, timestep, conditions).sample, masked.sample)


@torch.no_grad()
def test_masked_condition_tokens_at_the_end_are_as_absent(transformer, inputs, conditions):
    whole = Conditions(conditions.states, torch.ones_like(conditions.mask))
    padding = torch.randn(2, 4, transformer.inner_width)
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    padded = Conditions(torch.cat((whole.states, padding), 1), torch.cat((whole.mask, hidden), 1))
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    expected = transformer.decode(latents, timestep, whole).sample
    torch.testing.assert_close(transformer.decode(latents, timestep, padded).sample, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_injections_change_the_input_of_their_block_and_no_earlier_one(transformer, inputs, conditions, outputs):
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    plain = transformer.decode(latents, timestep, conditions).sample
    before = {name: outputs[f"transformer_blocks.{name}"].clone() for name in range(3)}
    residual = torch.randn(2, 37, transformer.inner_width)
    seen = {}

    def add(states):
        seen["states"] = states
        return states + residual

    changed = transformer.decode(latents, timestep, conditions, injections={1: add}).sample
    assert torch.equal(seen["states"], before[0])
    assert torch.equal(outputs["transformer_blocks.0"], before[0])
    assert not torch.equal(outputs["transformer_blocks.1"], before[1])
    assert not torch.equal(changed, plain)
    same = transformer.decode(latents, timestep, conditions, injections={0: lambda h: h, 2: lambda h: h}).sample
    assert torch.equal(same, plain)


@pytest.mark.parametrize("index", [3, -1])
def test_an_injection_past_the_last_block_is_refused(transformer, inputs, conditions, index):
    with pytest.raises(UserError) as caught:
        transformer.decode(
            inputs["hidden_states"], inputs["timestep"], conditions, injections={0: torch.relu, index: torch.relu}
        )
    assert str(caught.value) == (
        f"injection at block {index}: this transformer has 3 blocks, 0 to 2. Name only those in injection_layers."
    )


def test_wrong_shapes_say_what_was_expected(transformer, inputs, conditions):
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    with pytest.raises(ValueError, match=r"latents: shape \(2, 16, 8, 37\); expected \(2, 8, 16, 37\)\."):
        transformer.decode(latents.transpose(1, 2), timestep, conditions)
    with pytest.raises(ValueError, match=r"timestep: shape \(1,\); expected \(2,\)\."):
        transformer.decode(latents, timestep[:1], conditions)
    with pytest.raises(ValueError, match=r"conditions\.states: shape \(2, 25, 64\); expected \(1, 25, 64\)\."):
        transformer.decode(latents[:1], timestep[:1], conditions)
    with pytest.raises(ValueError, match=r"mask: shape \(2, 25\); expected \(2, 37\)\."):
        transformer.decode(latents, timestep, conditions, mask=conditions.mask)
    with pytest.raises(ValueError, match=r"injection at block 1: shape \(2, 37, 1\); expected \(2, 37, 64\)\."):
        transformer.decode(latents, timestep, conditions, injections={1: lambda h: h[..., :1]})
    with pytest.raises(ValueError, match=r"text: shape \(2, 11, 23\); expected \(2, 11, 24\)\."):
        transformer.encode(
            inputs["text"][..., 1:],
            inputs["text_mask"],
            inputs["speaker"],
            inputs["lyric_ids"],
            inputs["lyric_mask"],
        )


def test_configs_that_no_network_has_are_refused():
    with pytest.raises(ValueError, match=r"patch_size \(8, 1\): only \(16, 1\), all rows of one frame, exists\."):
        ACEStepTransformer2DModel(patch_size=(8, 1))
    with pytest.raises(ValueError, match=r"ssl_encoder_depths \(8, 8\) pass the last of 4 blocks\."):
        ACEStepTransformer2DModel(num_layers=4)


@torch.no_grad()
def test_a_missing_ssl_network_is_skipped(transformer, arguments, ssl_features):
    both = transformer(**arguments, ssl_hidden_states=ssl_features).projection_losses
    assert transformer(**arguments, ssl_hidden_states=[None, ssl_features[1]]).projection_losses == both[1:]
    assert transformer(**arguments).projection_losses == ()
    with pytest.raises(ValueError, match=r"ssl_features: 1 entries; expected one for each of \['mert', 'm-hubert'\]\."):
        transformer(**arguments, ssl_hidden_states=ssl_features[:1])


# Training


def switch_on_training_without_dropout(transformer):
    transformer.train()
    for module in transformer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()


def training_gradients(transformer, arguments):
    """Gradients of a step with dropout on, of whatever is trainable."""
    torch.manual_seed(3)
    transformer.zero_grad()
    transformer(**arguments).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in transformer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_changes_no_gradient(transformer, arguments, frozen):
    if frozen:
        transformer.requires_grad_(False)
        transformer.add_adapter(lora_config(init_lora_weights=False))
    transformer.train()
    plain = training_gradients(transformer, arguments)
    transformer.enable_gradient_checkpointing()
    calls = []
    block = transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = training_gradients(transformer, arguments)
    assert len(calls) == 2, "the block runs again for the backward pass"
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    transformer.eval()
    training_gradients(transformer, arguments)
    assert len(calls) == 3, "no checkpointing outside training"


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

import gzip
import json

import pytest
import torch

from common.errors import UserError
from models.acestep1.transformer.attention import rotary_table
from models.acestep1.transformer.timestep import timestep_sinusoid
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel, Conditions, cross_norm
from models.adapters.lora import attach_lora, trained_parameters


@pytest.fixture
def upstream(golden):
    return golden("transformer")


@pytest.fixture
def transformer(golden_transformer):
    return golden_transformer("transformer").requires_grad_(True)


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
    table = rotary_table(37, 32, theta=1e6, device=torch.device("cpu"))
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
def test_tables_rounded_to_bfloat16_match_upstreams_training(transformer, arguments, upstream):
    transformer.table_rounded_to = torch.bfloat16
    assert_close(transformer(**arguments).sample, upstream.expected["sample_bf16_rounded_tables"])


def switch_on_training_without_dropout(transformer):
    transformer.train()
    for module in transformer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()


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
def test_what_blocks_make_of_the_conditions_may_be_made_before(transformer, inputs, conditions):
    """Also where a LoRA sits on the layers that make it."""
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    attach_lora(transformer, rank=2, alpha=2, target_modules=("cross_attn.to_k", "cross_attn.to_v"))
    plain = transformer.decode(latents, timestep, conditions).sample
    for parameter in trained_parameters(transformer).values():
        parameter.normal_()
    prepared = transformer.prepare(conditions)
    assert transformer.prepare(prepared) is prepared
    adapted = transformer.decode(latents, timestep, conditions).sample
    assert not torch.equal(adapted, plain)
    for block in transformer.transformer_blocks:
        block.cross_attn.to_k.forward = block.cross_attn.to_v.forward = None
    assert torch.equal(transformer.decode(latents, timestep, prepared).sample, adapted)


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

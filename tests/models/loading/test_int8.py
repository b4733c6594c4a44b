import pytest
import torch
from torch import nn

from models.acestep1.transformer.block import PointwiseConv
from models.adapters.lora import attach_lora, load_lora, save_lora, trained_parameters
from models.loading.int8 import Int8Linear, rounded, to_int8


@pytest.fixture
def answer(golden):
    given = golden("transformer").inputs

    def run(transformer):
        conditions = transformer.encode(
            given["text"], given["text_mask"], given["speaker"], given["lyric_ids"], given["lyric_mask"]
        )
        return transformer.decode(given["hidden_states"], given["timestep"], conditions).sample.float()

    return run


def relative(one, other):
    return ((one - other).norm() / other.norm()).item()


def test_a_weight_is_off_by_at_most_half_a_step_of_its_row():
    weight = torch.randn(6, 50) * torch.tensor([1e-3, 1.0, 100.0, 0.0, 3.0, 1.0])[:, None]
    integers, scale = rounded(weight)
    assert integers.dtype == torch.int8
    assert not integers.requires_grad
    error = (integers * scale[:, None] - weight).abs()
    assert (error <= 0.501 * scale[:, None]).all()
    torch.testing.assert_close(scale, weight.abs().amax(dim=1) / 127)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_compute_what_their_rounded_weights_say_and_pass_gradients(dtype):
    for layer in (nn.Linear(12, 5), PointwiseConv(12, 5)):
        made = Int8Linear(layer)
        with torch.no_grad():
            layer.weight.copy_((made.weight * made.scale[:, None]).view_as(layer.weight))
        x = torch.randn(2, 12, 12, dtype=dtype, requires_grad=True)
        same = x.detach().float().requires_grad_()
        limit = 0.02 if dtype == torch.bfloat16 else 1e-6
        assert relative(made(x).float(), layer(same)) < limit
        made(x).float().square().sum().backward()
        layer(same).square().sum().backward()
        assert x.grad is not None
        assert same.grad is not None
        assert relative(x.grad.float(), same.grad) < limit


def test_the_blocks_take_a_quarter_and_the_output_moves_by_about_a_hundredth(golden_transformer, answer):
    transformer = golden_transformer("transformer")

    def size():
        return sum(p.numel() * p.element_size() for p in transformer.transformer_blocks.parameters())

    before, expected = size(), answer(transformer)
    to_int8(transformer)
    assert size() < 0.35 * before  # scales, biases and depthwise convolutions weigh more in a narrow network
    left = [m for m in transformer.transformer_blocks.modules() if type(m) is nn.Linear]
    assert not left
    assert type(transformer.final_layer.linear) is nn.Linear
    assert 0 < relative(answer(transformer), expected) < 0.02


def test_adapters_sit_on_rounded_layers_learn_and_load(golden_transformer, answer, tmp_path):
    def base():
        transformer = golden_transformer("transformer")
        to_int8(transformer)
        return transformer

    transformer = base()
    before = answer(transformer)
    report = attach_lora(transformer, rank=4, alpha=4, target_modules=("to_q", "to_out.0", "linear_q"))
    assert len(report.modules) == 3 * 2 * 2 + len(transformer.lyric_encoder.encoders)
    assert torch.equal(answer(transformer), before)
    answer(transformer).square().mean().backward()
    trained = trained_parameters(transformer)
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    assert gradients.keys() == trained.keys()
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert any(gradient.abs().max() > 0 for name, gradient in gradients.items() if ".lora_B." in name)
    for name, parameter in trained_parameters(transformer).items():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    save_lora(transformer, tmp_path)
    opened = base()
    load_lora(opened, tmp_path, name="band", weight=1.0)
    with torch.no_grad():
        torch.testing.assert_close(answer(opened), answer(transformer), atol=1e-4, rtol=0)

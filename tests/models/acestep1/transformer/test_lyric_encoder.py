import math

import pytest
import torch

from models.acestep1.transformer.lyric_encoder import LyricEncoder, RelativeAttention, by_offset, offset_table

TOLERANCE = 1e-5


@pytest.fixture
def encoder(golden):
    expected = golden("lyric_encoder")
    config = expected.notes["config"]
    encoder = LyricEncoder(
        config["input_size"],
        config["output_size"],
        heads=config["attention_heads"],
        feed_forward=config["linear_units"],
        layers=config["num_blocks"],
    )
    encoder.load_state_dict(expected.weights)
    return encoder.eval()


@pytest.fixture
def outputs(encoder):
    """What each named module of the encoder gives, filled as it runs."""
    found = {}
    for name, module in encoder.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: found.update({name: output}))
    return found


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=TOLERANCE * max(1, float(expected.abs().max())), rtol=0)


@torch.no_grad()
def test_every_output_matches_upstream(encoder, outputs, golden):
    inputs, expected = golden("lyric_encoder").inputs, golden("lyric_encoder").expected
    assert_close(encoder(inputs["x"], inputs["mask"].bool()), expected["y"])
    assert_close(outputs["embed"], expected["embed"])
    assert_close(outputs["encoders.0.self_attn"], expected["layer_0_self_attn"])
    for layer in range(3):
        assert_close(outputs[f"encoders.{layer}"], expected[f"layer_{layer}"])
    assert_close(offset_table(19, 48, device=torch.device("cpu"))[None], expected["pos_emb"])


@pytest.mark.parametrize("length", [1, 2, 7])
def test_by_offset_reads_the_offset_of_each_pair(length):
    offsets = torch.arange(length - 1, -length, -1).float()
    scores = by_offset(offsets.expand(2, length, -1))
    places = torch.arange(length).float()
    assert torch.equal(scores, (places[:, None] - places).expand(2, -1, -1))


def test_attention_is_what_the_formula_says():
    """Pair by pair, in float64: ((q_i + u) . k_j + (q_i + v) . W sinusoid(i - j)) / sqrt(D)."""
    length, width, heads = 5, 8, 2
    attention = RelativeAttention(width, heads).double()
    x = torch.randn(1, length, width, dtype=torch.float64)
    table = offset_table(length, width, device=x.device).double()
    q, k, v = (f(x)[0].unflatten(-1, (heads, -1)) for f in (attention.linear_q, attention.linear_k, attention.linear_v))
    p = attention.linear_pos(table).unflatten(-1, (heads, -1))
    scores = torch.empty(heads, length, length, dtype=torch.float64)
    for h in range(heads):
        for i in range(length):
            for j in range(length):
                content = (q[i, h] + attention.pos_bias_u[h]) @ k[j, h]
                position = (q[i, h] + attention.pos_bias_v[h]) @ p[length - 1 - (i - j), h]
                scores[h, i, j] = (content + position) / math.sqrt(width / heads)
    mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
    found = attention(x, table, torch.ones(1, length, dtype=torch.bool))
    torch.testing.assert_close(found[0], attention.linear_out(mixed), atol=1e-6, rtol=0)


@torch.no_grad()
def test_masked_tokens_influence_no_other(encoder, golden):
    inputs = golden("lyric_encoder").inputs
    x, mask = inputs["x"], inputs["mask"].bool()
    changed = torch.where(mask[..., None], x, x + 5)
    assert not torch.equal(changed, x)
    assert torch.equal(encoder(changed, mask)[mask], encoder(x, mask)[mask])


@torch.no_grad()
def test_padding_at_the_end_changes_nothing(encoder):
    x = torch.randn(1, 11, 40)
    padded = torch.cat((x, torch.randn(1, 4, 40)), dim=1)
    mask = torch.arange(15)[None] < 11
    alone = encoder(x, torch.ones(1, 11, dtype=torch.bool))
    torch.testing.assert_close(encoder(padded, mask)[:, :11], alone, atol=TOLERANCE, rtol=0)


def test_an_item_without_any_token_is_finite_both_ways(encoder):
    x = torch.randn(2, 6, 40, requires_grad=True)
    mask = torch.tensor([[True] * 6, [False] * 6])
    encoder(x, mask).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    attention = encoder.encoders[0].self_attn
    found = attention(torch.randn(2, 6, 48), offset_table(6, 48, device=x.device), mask)
    torch.testing.assert_close(found[1], attention.linear_out.bias.expand(6, -1), atol=0, rtol=0)


@torch.no_grad()
def test_rounded_tables_change_the_result_slightly(encoder, golden):
    x, mask = golden("lyric_encoder").inputs["x"], golden("lyric_encoder").inputs["mask"].bool()
    change = (encoder(x, mask, table_rounded_to=torch.bfloat16) - encoder(x, mask)).abs().max()
    assert 1e-5 < change < 0.05


@torch.no_grad()
def test_bfloat16_stays_close(encoder, golden):
    x, mask = golden("lyric_encoder").inputs["x"], golden("lyric_encoder").inputs["mask"].bool()
    exact = encoder(x, mask)[mask]
    rough = encoder.bfloat16()(x.bfloat16(), mask)[mask]
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()

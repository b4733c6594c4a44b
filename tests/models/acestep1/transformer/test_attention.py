import torch

from models.acestep1.transformer.attention import (
    CrossAttention,
    LinearAttention,
    linear_attention,
    rotary_table,
    rotate,
)

CPU = torch.device("cpu")


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
        keys_values = cross.keys_values(states, table)
        found = cross(states, keys_values, state_mask=masks[0], condition_mask=masks[1], state_table=table)
        assert torch.equal(found, bias_of(cross))

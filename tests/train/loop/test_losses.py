import torch

from train.loop.losses import denoising_loss, structure_loss, weighted_mean


def test_the_loss_of_whole_clips_is_the_mean_square():
    estimate, clean = torch.randn(2, 3, 8, 16, 5, dtype=torch.float64)
    expected = (estimate - clean).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(denoising_loss(estimate, clean, torch.ones(3, 5)), expected)


def test_masked_frames_count_neither_above_nor_below_the_line():
    estimate, clean = torch.randn(2, 2, 8, 16, 6, dtype=torch.float64)
    mask = torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    padded = denoising_loss(estimate, clean, mask)
    alone = denoising_loss(estimate[1:, ..., :4], clean[1:, ..., :4], torch.ones(1, 4))
    torch.testing.assert_close(padded[1:], alone)


def test_structure_asks_how_the_energy_follows_the_vocals():
    vocal, clean, other = torch.randn(3, 2, 8, 16, 9)
    mask = torch.ones(2, 9)
    assert torch.equal(structure_loss(clean, clean, vocal, mask), torch.zeros(2))
    assert (structure_loss(other, clean, vocal, mask) > 0).all()
    torch.testing.assert_close(structure_loss(3 * other, clean, vocal, mask), structure_loss(other, clean, vocal, mask))
    alone = structure_loss(other[1:], clean[1:], vocal[1:], mask[1:])
    assert torch.equal(structure_loss(other, clean, vocal, mask)[1:], alone)


def test_items_of_weight_zero_do_not_count():
    losses = torch.tensor([1.0, 3.0, 100.0])
    assert weighted_mean(losses, torch.tensor([1.0, 1.0, 0.0])).item() == 2.0
    assert weighted_mean(losses, torch.zeros(3)).item() == 0.0

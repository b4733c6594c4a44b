"""Where the VAE begins: as a lapped transform of the lower notes, from which it is trained to what else it can hold.

From random weights, the phase of a tone is what such a network learns last, and without it no chord is kept: 900 steps
left a mean difference of waves of 0.073 and of log-spectra of 0.59; from here, 600 steps leave 0.032 and 0.39.

The transform is the modified discrete cosine transform with a sine window (Princen and Bradley, 1986) of the channels'
mean at 1600 Hz: of frames half over each other, as many coefficients per latent frame as there are latent channels.
They are sound of up to 800 Hz.

C latent channels (64), and the channels inside the network, of which the first few carry the transform.
"""

import math

import torch
from torch import Tensor, nn

from common.bases import ACE_STEP_15
from models.acestep15.codec import OobleckCodec

LATENTS = ACE_STEP_15.latents
LOW_RATE_HZ = LATENTS.channels * LATENTS.sample_rate_hz // LATENTS.frame_samples
"""Samples a second that are as many as latent numbers."""
UNUSED = 0.1
"""What the random weights of channels that carry nothing yet are multiplied by."""
LINEAR = -3.0
"""Logarithm of the frequency of all snakes: so low that they bend nothing yet."""
SPREAD = 10.0
"""Weight norm divides by the length of a kernel: a longer one is turned more slowly by a step."""


@torch.no_grad()
def begin_lapped(vae: OobleckCodec) -> None:
    """Set the weights of a VAE of three blocks, which is random, in place."""
    assert vae.encoder is not None
    assert vae.decoder is not None
    for name, parameter in vae.named_parameters():
        if name.endswith(".alpha"):
            parameter.fill_(LINEAR)
        elif ".res_unit" in name and ".conv2." in name and not name.endswith("weight_v"):
            parameter.zero_()
    low, middle, last = (block.get_submodule("conv1") for block in vae.encoder.block)
    sampled, gathered, transform = _sampling(low), _gathering(middle), _cosines(last)
    _set(vae.encoder.conv1, _same(2, taps=7))
    _set(low, sampled)
    _set(middle, gathered)
    _set(last, transform)
    _set(vae.encoder.conv2, _same(LATENTS.channels, taps=3))
    _set(vae.decoder.conv1, _same(LATENTS.channels, taps=7))
    back, spread, high = (block.get_submodule("conv_t1") for block in vae.decoder.block)
    _set(back, transform)
    _set(spread, gathered)
    _set(high, sampled * (2 * LATENTS.sample_rate_hz / LOW_RATE_HZ))
    _set(vae.decoder.conv2, _same(2, taps=7))


def _set(layer: nn.Module, kernel: Tensor) -> None:
    """Let a layer with weight norm begin with a kernel [rows, columns, taps] on its first rows and columns.

    What no channel carries keeps its random weights, made small.
    """
    length, direction = layer.get_parameter("weight_g"), layer.get_parameter("weight_v")
    weight = direction * UNUSED
    rows, columns = kernel.shape[:2]
    weight[:rows] = 0
    weight[:rows, :columns] = kernel
    direction.copy_(weight * SPREAD)
    length.copy_(weight.flatten(1).norm(dim=1)[:, None, None])
    if isinstance(getattr(layer, "bias", None), Tensor):
        layer.get_parameter("bias").zero_()


def _same(channels: int, *, taps: int) -> Tensor:
    """What leaves channels as they are."""
    kernel = torch.zeros(channels, channels, taps)
    kernel[..., taps // 2] = torch.eye(channels)
    return kernel


def _sampling(layer: nn.Module) -> Tensor:
    """The mean of both channels at LOW_RATE_HZ, as many samples at once as come on a stride. [samples, 2, taps]"""
    taps = layer.get_parameter("weight_v").shape[2]
    period = LATENTS.sample_rate_hz // LOW_RATE_HZ
    count = taps // 2 // period
    centres = (taps - 1) / 2 + period * (torch.arange(count) - (count - 1) / 2)
    distance = (torch.arange(taps) - centres[:, None]) / period
    window = torch.where(distance.abs() < count, (math.pi * distance / (2 * count)).cos().square(), 0.0)
    kernel = torch.sinc(distance) * window
    return (kernel / kernel.sum(1, keepdim=True) / 2)[:, None].expand(-1, 2, -1)


def _gathering(layer: nn.Module) -> Tensor:
    """All samples of a stride as channels, in order. [samples of a stride, samples at once, taps]"""
    stride = layer.get_parameter("weight_v").shape[2] // 2
    at_once = LATENTS.channels // 32
    kernel = torch.zeros(stride * at_once, at_once, 2 * stride)
    for sample in range(stride * at_once):
        kernel[sample, sample % at_once, stride // 2 + sample // at_once] = 1
    return kernel


def _cosines(layer: nn.Module) -> Tensor:
    """The transform of two frames of samples that come as channels. [C, samples at once, taps]"""
    taps, count = layer.get_parameter("weight_v").shape[2], LATENTS.channels
    place = torch.arange(2 * count) + 0.5
    phase = math.pi / count * (place + count / 2) * (torch.arange(count)[:, None] + 0.5)
    rows = math.sqrt(2 / count) * phase.cos() * (math.pi / (2 * count) * place).sin()
    return rows.unflatten(1, (taps, -1)).mT

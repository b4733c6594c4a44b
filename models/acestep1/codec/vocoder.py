"""Log-mel to waveform: a ConvNeXt backbone, and the published HiFi-GAN head or Griffin-Lim.

docs/upstream.md, section 6. N waves at 44100 Hz, F mel frames, U samples.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.config import Config
from models.acestep1.codec.griffin_lim import griffin_lim
from models.acestep1.codec.mel import (
    HIGHEST_HZ,
    HOP_SAMPLES,
    LOWEST_HZ,
    MEL_BANDS,
    SPECTRUM_BINS,
    WINDOW_SAMPLES,
    mel_tables,
)

MEL_TABLES = {
    "mel_transform.spectrogram.window": (WINDOW_SAMPLES,),
    "mel_transform.mel_scale.fb": (SPECTRUM_BINS, MEL_BANDS),
}
"""Tables that the file holds beside the weights, rounded to bfloat16; mel.py computes exact ones instead."""

LOUDEST = math.log(WINDOW_SAMPLES / 2)
"""Log-magnitude of a constant at full scale."""


class BackboneConfig(Config):
    """What config.json of music_vocoder says of every vocoder. Mel settings are part of the codec's definition and must
    be its own."""

    depths: tuple[int, ...]
    """Blocks per stage of the backbone."""
    dims: tuple[int, ...]
    """Channels per stage of the backbone."""
    input_channels: Literal[128] = MEL_BANDS
    n_mels: Literal[128] = MEL_BANDS
    kernel_sizes: tuple[Literal[7]] = (7,)
    drop_path_rate: float = 0.0
    """Stored, but of use to nobody: it acts in training only."""
    sampling_rate: Literal[44100] = 44_100
    hop_length: Literal[512] = HOP_SAMPLES
    n_fft: Literal[2048] = WINDOW_SAMPLES
    win_length: Literal[2048] = WINDOW_SAMPLES
    f_min: float = LOWEST_HZ
    f_max: float = HIGHEST_HZ


class VocoderConfig(BackboneConfig):
    """config.json of a vocoder with the published head."""

    num_mels: int
    """Channels from the backbone to the head (not mel bands, despite its name)."""
    upsample_initial_channel: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    pre_conv_kernel_size: int = 13
    post_conv_kernel_size: int = 13
    use_template: Literal[False] = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if math.prod(self.upsample_rates) != HOP_SAMPLES:
            raise ValueError(f"upsample_rates multiply to {math.prod(self.upsample_rates)}; it must be {HOP_SAMPLES}")
        if self.dims[-1] != self.num_mels:
            raise ValueError(f"the last of dims is {self.dims[-1]} and num_mels {self.num_mels}; they must be equal")
        return self


class GriffinLimConfig(BackboneConfig):
    """config.json of a vocoder whose head finds phases instead of learning them."""

    head: Literal["griffin_lim"]
    rounds: Annotated[int, Field(ge=1)] = 32
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99


class Vocoder(nn.Module):
    """Log-mel [N, 128, F] -> wave [N, 1, 512·F] within -1 ... 1. Holds plain weights: see stored_shapes."""

    def __init__(self, config: VocoderConfig | GriffinLimConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.head = Head(config) if isinstance(config, VocoderConfig) else GriffinLimHead(config)

    def forward(self, mel: Tensor) -> Tensor:
        hidden = self.backbone(mel)
        return self.head(hidden) if isinstance(self.head, Head) else self.head(hidden, mel)


class Backbone(nn.Module):
    """ConvNeXt over time: [N, 128, F] -> [N, last of dims, F]."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        dims = config.dims
        stem = nn.Conv1d(config.input_channels, dims[0], 7, padding=3, padding_mode="replicate")
        steps = [nn.Sequential(ChannelNorm(before), nn.Conv1d(before, after, 1)) for before, after in pairwise(dims)]
        self.channel_layers = nn.ModuleList([nn.Sequential(stem, ChannelNorm(dims[0])), *steps])
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNextBlock(dim) for _ in range(depth)))
            for dim, depth in zip(dims, config.depths, strict=True)
        )
        self.norm = ChannelNorm(dims[-1])

    def forward(self, mel: Tensor) -> Tensor:
        hidden = mel
        for channels, stage in zip(self.channel_layers, self.stages, strict=True):
            hidden = stage(channels(hidden))
        return self.norm(hidden)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [N, channels, F]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mT).mT


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer network per frame, scaled by gamma and added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.norm(self.dwconv(hidden).mT)
        return hidden + (self.gamma * self.pwconv2(functional.gelu(self.pwconv1(inner)))).mT


class Head(nn.Module):
    """HiFi-GAN: upsampling stages, each with the mean of several residual blocks. [N, dim, F] -> [N, 1, 512·F]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        widths = [config.upsample_initial_channel >> stage for stage in range(len(config.upsample_rates) + 1)]
        self.conv_pre = _same_conv(config.num_mels, widths[0], config.pre_conv_kernel_size)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(before, after, kernel, stride=rate, padding=(kernel - rate) // 2)
            for before, after, kernel, rate in zip(
                widths, widths[1:], config.upsample_kernel_sizes, config.upsample_rates, strict=False
            )
        )
        kinds = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations) for width in widths[1:] for kernel, dilations in kinds
        )
        self.kinds = len(kinds)
        self.conv_post = _same_conv(widths[-1], 1, config.post_conv_kernel_size)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.conv_pre(hidden)
        for stage, up in enumerate(self.ups):
            hidden = up(functional.silu(hidden))
            blocks = self.resblocks[stage * self.kinds : (stage + 1) * self.kinds]
            hidden = sum(block(hidden) for block in blocks) / self.kinds
        return self.conv_post(functional.silu(hidden)).tanh()


class ResidualBlock(nn.Module):
    """For each dilation: SiLU, dilated convolution, SiLU, convolution; added."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same_conv(width, width, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same_conv(width, width, kernel) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden = hidden + plain(functional.silu(dilated(functional.silu(hidden))))
        return hidden


def _same_conv(before: int, after: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(before, after, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)


class GriffinLimHead(nn.Module):
    """Magnitudes of windows, and phases by fast Griffin-Lim (Perraudin et al. 2013). [N, dim, F] -> [N, 1, 512·F].

    Magnitudes are those that the mel's bands have, spread over their bins, times what the backbone says: a network can
    learn that in minutes, where waveforms take days.
    """

    def __init__(self, config: GriffinLimConfig) -> None:
        super().__init__()
        self.to_bins = nn.Conv1d(config.dims[-1], SPECTRUM_BINS, 1)
        self.rounds, self.momentum = config.rounds, config.momentum

    def log_magnitudes(self, hidden: Tensor, mel: Tensor) -> Tensor:
        """Of the windows that models.acestep1.codec.mel takes. [N, dim, F], [N, 128, F] -> [N, 1025, F], float32"""
        return (self.to_bins(hidden).float() + spread(mel.float())).clamp(max=LOUDEST)

    def forward(self, hidden: Tensor, mel: Tensor) -> Tensor:
        wave = phased(self.log_magnitudes(hidden, mel).exp(), rounds=self.rounds, momentum=self.momentum)
        return wave[:, None].clamp(-1, 1).to(hidden.dtype)


def spread(mel: Tensor) -> Tensor:
    """Log-magnitudes of bins between those of flat bands with this log-mel. [N, 128, F] -> [N, 1025, F]"""
    filters = mel_tables(mel.device).filters
    area = filters.sum(0)
    shares = filters / area
    covered = shares.sum(1).nonzero()[:, 0]
    shares[: covered[0]], shares[covered[-1] + 1 :] = shares[covered[0]], shares[covered[-1]]
    return shares / shares.sum(1, keepdim=True) @ (mel - area.log()[:, None])


def phased(magnitudes: Tensor, *, rounds: int, momentum: float) -> Tensor:
    """A wave whose windows, as mel.py takes them, have nearly these magnitudes. [N, 1025, F] -> [N, 512·F]"""
    samples = magnitudes.shape[-1] * HOP_SAMPLES
    wider = functional.pad(magnitudes, (2, 2), mode="replicate")  # the outer windows' centres lie inside the wave
    window = mel_tables(magnitudes.device).window.to(magnitudes.dtype)
    wave = griffin_lim(wider, window, HOP_SAMPLES, rounds=rounds, momentum=momentum)
    return wave[:, 3 * HOP_SAMPLES // 2 :][:, :samples]


def stored_shapes(vocoder: Vocoder) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the file: with the published head's weight norm split off, and the mel tables."""
    shapes = dict(MEL_TABLES)
    for name, tensor in vocoder.state_dict().items():
        if isinstance(vocoder.head, Head) and _is_split(name):
            shapes |= {f"{name}_g": (len(tensor), 1, 1), f"{name}_v": tuple(tensor.shape)}
        else:
            shapes[name] = tuple(tensor.shape)
    return shapes


def fold(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Vocoder from those of its file: weight = g·v / ‖v‖, the norm over all axes but the first.

    The first axis of a transposed convolution is its input channels.
    """
    folded = {}
    for name, tensor in stored.items():
        if name.endswith(".weight_v"):
            plain = name.removesuffix("_v")
            norm = tensor.flatten(1).norm(dim=1)[:, None, None]
            folded[plain] = stored[f"{plain}_g"] * tensor / norm
        elif not name.endswith(".weight_g") and name not in MEL_TABLES:
            folded[name] = tensor
    return folded


def _is_split(name: str) -> bool:
    return name.startswith("head.") and name.endswith(".weight")

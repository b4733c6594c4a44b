"""Waveform to latents and back by diffusers' Oobleck networks, each of which opens without the other.

Both are convolutions alone, so a frame depends on a known number of frames aside: a piece that is read with as many
gives what the whole clip gives, but for the order of additions.

C latent channels (64), H latent rows (1), T latent frames, N audio samples at 48000 Hz.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod
from typing import Annotated, Literal, Self

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from common.bases import ACE_STEP_15
from common.config import Config
from models.device import whole_float32
from models.protocols import LatentCodec, LatentDecoder

LAYOUT = ACE_STEP_15.latents
LONGEST_PIECE = int(20 * LAYOUT.frames_per_second)
"""Latent frames that are encoded or decoded at once."""
PICTURE_WINDOW, PICTURE_HOP, PICTURE_BANDS = 2048, 480, 128  # samples, samples, mel bands
PICTURE_FLOOR_DB, PICTURE_TOP_DB = -80.0, 20.0

Positive = Annotated[int, Field(gt=0)]


class OobleckConfig(Config):
    """config.json of the VAE: the options of diffusers' AutoencoderOobleck, under its names, and one of our own."""

    encoder_hidden_size: Positive = 128
    encoder_channels: Positive | None = None
    """Width at which the encoder begins, where that is not `encoder_hidden_size`: the tiny one's is narrower."""
    downsampling_ratios: tuple[Positive, ...]
    channel_multiples: tuple[Positive, ...]
    decoder_channels: Positive = 128
    decoder_input_channels: Literal[64] = 64
    audio_channels: Literal[2] = 2
    sampling_rate: Literal[48_000]

    @model_validator(mode="after")
    def _check_latents(self) -> Self:
        hop, width = prod(self.downsampling_ratios), 2 * self.decoder_input_channels
        if hop != LAYOUT.frame_samples or any(ratio % 2 for ratio in self.downsampling_ratios):
            raise ValueError(
                f"downsampling_ratios multiply to {hop}; those of {ACE_STEP_15.name} are even, and to "
                f"{LAYOUT.frame_samples}"
            )
        if self.encoder_hidden_size != width:
            raise ValueError(f"encoder_hidden_size is {self.encoder_hidden_size}, mean and deviation take {width}")
        if len(self.channel_multiples) != len(self.downsampling_ratios):
            raise ValueError("channel_multiples and downsampling_ratios are of different lengths")
        return self


class OobleckCodec(LatentCodec):
    """One or both halves of the VAE; weights keep the published names (`encoder.*`, `decoder.*`) until `fold`."""

    layout = LAYOUT

    def __init__(self, config: OobleckConfig, *, encoder: bool, decoder: bool) -> None:
        super().__init__()
        ratios, multiples = list(config.downsampling_ratios), list(config.channel_multiples)
        self.encoder = _encoder(config, ratios, multiples) if encoder else None
        self.decoder = (
            OobleckDecoder(
                config.decoder_channels, config.decoder_input_channels, config.audio_channels, ratios[::-1], multiples
            )
            if decoder
            else None
        )

    def fold(self) -> Self:
        """Turn weight norm into plain weights, which are not computed anew at each call and take half the memory."""
        for module in self.modules():
            if hasattr(module, "weight_g"):
                nn.utils.remove_weight_norm(module)
        return self.requires_grad_(False)

    def encode(self, wave: Tensor, *, longest: int | None = None) -> Tensor:
        """Latents of a stereo wave, zero-padded on the right to whole frames. [2, N] -> [C, H, ceil(N/1920)].

        They are the mode of the encoder's distribution: the same wave gives the same latents. More than `longest`
        frames (LONGEST_PIECE) are encoded in pieces: the same but for rounding, in the memory of a piece. Float32
        whatever the dtype of the weights, which is that of the network's own arithmetic.
        """
        return self.encode_from(
            lambda start, end: wave[:, start:end], LAYOUT.frames_of(wave.shape[-1]), longest=longest
        )

    @whole_float32()
    def encode_from(self, read: Callable[[int, int], Tensor], frames: int, *, longest: int | None = None) -> Tensor:
        """`encode` of a wave that need not be in memory: [C, H, frames] of what `read(start, end)` gives, [2, n]."""
        assert self.encoder is not None, "opened without its encoder"
        dtype = next(self.encoder.parameters()).dtype
        made = []
        for piece in cut(frames, longest or LONGEST_PIECE, context_of(self.encoder)):
            start, end = piece.first * LAYOUT.frame_samples, piece.last * LAYOUT.frame_samples
            wave = read(start, end)
            wave = functional.pad(wave, (0, end - start - wave.shape[-1])).to(dtype)
            mean = self.encoder(wave[None])[0, : LAYOUT.channels]
            made.append(mean[:, piece.start - piece.first : piece.end - piece.first].float())
        return torch.cat(made, dim=-1).unsqueeze(1)

    @whole_float32()
    def decode(self, latents: Tensor) -> Tensor:
        """The wave of a whole clip. [C, H, T] -> [2, 1920·T]"""
        assert self.decoder is not None, "opened without its decoder"
        return self.decoder(latents.squeeze(1)[None])[0]

    def decode_in_pieces(self, latents: Tensor, *, longest: int | None = None) -> Iterator[Tensor]:
        """`decode` piece by piece [2, n], `longest` frames (LONGEST_PIECE) at a time: the same but for rounding."""
        assert self.decoder is not None, "opened without its decoder"
        for piece in cut(latents.shape[-1], longest or LONGEST_PIECE, context_of(self.decoder)):
            wave = self.decode(latents[..., piece.first : piece.last])
            start, end = piece.start - piece.first, piece.end - piece.first
            yield wave[:, start * LAYOUT.frame_samples : end * LAYOUT.frame_samples]


def _encoder(config: OobleckConfig, ratios: list[int], multiples: list[int]) -> OobleckEncoder:
    width = config.encoder_channels or config.encoder_hidden_size
    encoder = OobleckEncoder(width, config.audio_channels, ratios, multiples)
    if width != config.encoder_hidden_size:  # which diffusers' class has for its ends alike
        last = nn.Conv1d(width * multiples[-1], config.encoder_hidden_size, kernel_size=3, padding=1)
        encoder.conv2 = nn.utils.weight_norm(last)
    return encoder


class OobleckLatentDecoder(LatentDecoder):
    """The VAE's decoder, which makes sound by itself. Levels stay as they are made."""

    layout = LAYOUT

    def __init__(self, codec: OobleckCodec) -> None:
        self.codec = codec
        self._device = next(codec.parameters()).device

    @torch.no_grad()
    def blocks(self, latents: Tensor, samples: int) -> Iterator[np.ndarray]:
        for piece in self.codec.decode_in_pieces(latents.to(self._device)):
            yield piece[:, :samples].cpu().numpy()
            samples -= min(samples, piece.shape[1])

    @torch.no_grad()
    def rendering(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        wave = torch.cat(list(self.codec.decode_in_pieces(latents.to(self._device))), dim=1).mean(dim=0).cpu()
        return wave, mel_picture(wave)


@dataclass(frozen=True)
class CodecPiece:
    """Frames from `start` to before `end`, read with their context, from `first` to before `last`."""

    start: int
    end: int
    first: int
    last: int


def cut(frames: int, longest: int, context: int) -> list[CodecPiece]:
    """As few pieces as cover all frames, of nearly one length, with as much of the context as there is."""
    count = ceil(frames / longest)
    bounds = pairwise(frames * number // count for number in range(count + 1))
    return [CodecPiece(start, end, max(start - context, 0), min(end + context, frames)) for start, end in bounds]


def context_of(half: OobleckEncoder | OobleckDecoder) -> int:
    """Latent frames that a half of the VAE looks aside, at most: sums over its convolutions, one after the other."""
    samples, rate = 0, LAYOUT.frame_samples if isinstance(half, OobleckDecoder) else 1
    for layer in half.modules():
        if not isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            continue
        (kernel,), (dilation,), (stride,) = layer.kernel_size, layer.dilation, layer.stride
        padding = int(layer.padding[0])
        if isinstance(layer, nn.ConvTranspose1d):
            rate //= stride
        samples += max(padding, (kernel - 1) * dilation - padding) * rate
        if isinstance(layer, nn.Conv1d):
            rate *= stride
    return ceil(samples / LAYOUT.frame_samples)


def mel_picture(wave: Tensor) -> Tensor:
    """Log-mel of a mono wave [N] in [0, 1], low notes below. [128, about N/480]"""
    window = torch.hann_window(PICTURE_WINDOW)
    spectrum = torch.stft(wave, PICTURE_WINDOW, PICTURE_HOP, window=window, pad_mode="constant", return_complex=True)
    filters = melscale_fbanks(
        PICTURE_WINDOW // 2 + 1, 40.0, LAYOUT.sample_rate_hz / 2, PICTURE_BANDS, LAYOUT.sample_rate_hz, norm="slaney"
    )
    power = (filters.T @ spectrum.abs().square()).clamp(min=1e-10)
    share = (10 * power.log10() - PICTURE_FLOOR_DB) / (PICTURE_TOP_DB - PICTURE_FLOOR_DB)
    return share.clamp(0, 1).flip(0)

"""Waveform to latents and back: DCAE's two halves, each of which opens without the other (docs/upstream.md, section 5).

C latent channels (8), H latent rows (16), T latent frames, N audio samples at 44100 Hz, F = 8·T mel frames.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from diffusers.models.autoencoders.autoencoder_dc import Decoder, Encoder
from torch import Tensor
from torch.nn import functional

from common.bases import ACE_STEP_1
from common.config import Config
from models.acestep1.codec.encoder_pieces import encode_in_pieces
from models.acestep1.codec.mel import HOP_SAMPLES, log_mel
from models.acestep1.codec.vocoder import Vocoder
from models.device import whole_float32
from models.protocols import LatentCodec

LAYOUT = ACE_STEP_1.latents
MEL_FRAMES = LAYOUT.frame_samples // HOP_SAMPLES
"""Mel frames under one latent frame."""
MEL_LOW, MEL_HIGH = -11.0, 3.0
LATENT_SCALE, LATENT_SHIFT = 0.1786, -1.9091

LONGEST_PIECE = int(20 * LAYOUT.frames_per_second)
"""Latent frames that are encoded at once."""
WINDOW_FRAMES, WINDOW_HOP = 512, 256  # latent frames of an overlapped decode
WINDOW_TRIM = WINDOW_FRAMES * MEL_FRAMES // 4  # mel frames that a window gives up at an inner edge
BLOCK_MEL_FRAMES, BLOCK_TRIM, CROSS_FADE = 512, 1024, 128  # vocoder blocks: mel frames; samples given up; samples mixed


class CodecConfig(Config):
    """config.json of music_dcae_f8c8: the options of diffusers' AutoencoderDC, under its names."""

    in_channels: Literal[2]
    latent_channels: Literal[8]
    attention_head_dim: int
    encoder_block_types: tuple[
        Literal["ResBlock"], Literal["ResBlock"], Literal["ResBlock"], Literal["EfficientViTBlock"]
    ]
    decoder_block_types: tuple[str, ...]
    encoder_block_out_channels: tuple[int, int, int, int]
    decoder_block_out_channels: tuple[int, int, int, int]
    encoder_layers_per_block: tuple[int, int, int, int]
    decoder_layers_per_block: tuple[int, int, int, int]
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...]
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...]
    downsample_block_type: str
    upsample_block_type: str
    decoder_norm_types: str = "rms_norm"
    decoder_act_fns: str = "silu"
    encoder_out_shortcut: Literal[True] = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: str = "relu"
    scaling_factor: float = 1.0
    """Stored, but never applied: ACE-Step scales with its own constants."""


class Codec(LatentCodec):
    """One or both halves of the DCAE; weights keep the published names (`encoder.*`, `decoder.*`)."""

    layout = LAYOUT

    def __init__(self, config: CodecConfig, *, encoder: bool, decoder: bool) -> None:
        super().__init__()
        self.encoder = _encoder(config) if encoder else None
        self.decoder = _decoder(config) if decoder else None

    def encode(self, wave: Tensor, *, longest: int | None = None) -> Tensor:
        """Scaled latents of a stereo wave, zero-padded on the right to whole frames. [2, N] -> [C, H, ceil(N/4096)].

        More than `longest` frames (LONGEST_PIECE) are encoded in pieces: the same but for rounding, in the memory of a
        piece. Float32 whatever the dtype of the weights, which is that of the network's own arithmetic.
        """
        return self.encode_from(
            lambda start, end: wave[:, start:end], LAYOUT.frames_of(wave.shape[-1]), longest=longest
        )

    @whole_float32()
    def encode_from(self, read: Callable[[int, int], Tensor], frames: int, *, longest: int | None = None) -> Tensor:
        """`encode` of a wave that need not be in memory: [C, H, frames] of what `read(start, end)` gives, [2, n]."""
        assert self.encoder is not None, "opened without its encoder"
        dtype = next(self.encoder.parameters()).dtype

        def mel(piece: slice) -> Tensor:
            start, end = piece.start * LAYOUT.frame_samples, piece.stop * LAYOUT.frame_samples
            wave = read(start, end)
            return normalise_mel(log_mel(functional.pad(wave, (0, end - start - wave.shape[-1])))).to(dtype)[None]

        raw = encode_in_pieces(self.encoder, mel, frames=frames, longest=longest or LONGEST_PIECE)
        return (raw.float() - LATENT_SHIFT) * LATENT_SCALE

    def decode_mel(self, latents: Tensor) -> Tensor:
        """Log-mel of both channels. Scaled latents [C, H, T] -> [2, 128, F]."""
        assert self.decoder is not None, "opened without its decoder"
        return denormalise_mel(self.decoder((latents / LATENT_SCALE + LATENT_SHIFT)[None])[0])


def normalise_mel(mel: Tensor) -> Tensor:
    """Log-mel from -11 ... 3 to -1 ... 1, the range that the DCAE sees."""
    return (mel - MEL_LOW) / (MEL_HIGH - MEL_LOW) * 2 - 1


def denormalise_mel(mel: Tensor) -> Tensor:
    """Undo normalise_mel."""
    return (mel + 1) / 2 * (MEL_HIGH - MEL_LOW) + MEL_LOW


def decode_audio(codec: Codec, vocoder: Vocoder, latents: Tensor, *, samples: int | None = None) -> Tensor:
    """Stereo wave at 44100 Hz, each channel by itself. [C, H, T] -> [2, samples, or else 4096·T]."""
    return vocode(vocoder, codec.decode_mel(latents))[:, :samples]


def vocode(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """Log-mel [2, 128, F] to a wave [2, 512·F], each channel by itself and whole."""
    return torch.cat([vocoder(channel[None])[0] for channel in mel])


def decode_mel_in_windows(codec: Codec, latents: Tensor) -> Tensor:
    """[C, H, T] -> [2, 128, F]; a window gives up a quarter of a full one at each edge where it meets another."""
    frames = latents.shape[-1]
    starts = range(0, max(frames - WINDOW_HOP, 1), WINDOW_HOP)
    pieces = []
    for start in starts:
        mel = codec.decode_mel(latents[..., start : start + WINDOW_FRAMES])
        left = WINDOW_TRIM if start != starts[0] else 0
        right = WINDOW_TRIM if start != starts[-1] else 0
        pieces.append(mel[..., left : mel.shape[-1] - right])
    return torch.cat(pieces, dim=-1)


def decode_audio_in_pieces(codec: Codec, vocoder: Vocoder, latents: Tensor) -> Iterator[Tensor]:
    """As decode_audio, [2, 4096·T] in all, piece by piece [2, n]: from overlapping windows, joined as upstream does
    (docs/upstream.md, section 5.6), so that no wave is held whole.

    The DCAE attends over a whole window, so the result is near that of decode_audio, not equal to it.
    """
    return vocode_in_pieces(vocoder, decode_mel_in_windows(codec, latents))


def vocode_in_blocks(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """[2, 128, F] -> wave [2, 512·F], from blocks of 512 mel frames that overlap by 2·1024 samples.

    As upstream, the last block is filled up with mel value 0, which is loud; what it makes there is cut, but a trace of
    it reaches back into the last samples.
    """
    return torch.cat(list(vocode_in_pieces(vocoder, mel)), dim=1)


def vocode_in_pieces(vocoder: Vocoder, mel: Tensor) -> Iterator[Tensor]:
    """`vocode_in_blocks`, each piece [2, n] as soon as no later block changes it."""
    shared = 2 * BLOCK_TRIM
    hop, total = BLOCK_MEL_FRAMES - shared // HOP_SAMPLES, mel.shape[-1] * HOP_SAMPLES
    starts, before = range(0, max(mel.shape[-1] - shared // HOP_SAMPLES, 1), hop), None
    for start in starts:
        block = mel[..., start : start + BLOCK_MEL_FRAMES]
        new = vocoder(functional.pad(block, (0, BLOCK_MEL_FRAMES - block.shape[-1])))[:, 0]
        if before is not None:
            _join(before, new)
        left = total - start * HOP_SAMPLES
        yield new[:, : left if start == starts[-1] else hop * HOP_SAMPLES]
        before = new[:, hop * HOP_SAMPLES :]


def _join(before: Tensor, new: Tensor) -> None:
    """Put what the block before made of their 2·1024 common samples over the start of `new`.

    The two meet in the middle of those, after a linear cross-fade of 128 samples.
    """
    kept = BLOCK_TRIM - CROSS_FADE
    fade = torch.linspace(0, 1, CROSS_FADE, device=new.device, dtype=new.dtype)
    mixed = slice(kept, BLOCK_TRIM)
    new[:, :kept] = before[:, :kept]
    new[:, mixed] = torch.lerp(before[:, mixed], new[:, mixed], fade)


def _encoder(config: CodecConfig) -> Encoder:
    return Encoder(
        in_channels=config.in_channels,
        latent_channels=config.latent_channels,
        attention_head_dim=config.attention_head_dim,
        block_type=config.encoder_block_types,  # ty: ignore[invalid-argument-type]  (diffusers means tuple[str, ...])
        block_out_channels=config.encoder_block_out_channels,
        layers_per_block=config.encoder_layers_per_block,
        qkv_multiscales=config.encoder_qkv_multiscales,
        downsample_block_type=config.downsample_block_type,
        out_shortcut=config.encoder_out_shortcut,
    )


def _decoder(config: CodecConfig) -> Decoder:
    return Decoder(
        in_channels=config.in_channels,
        latent_channels=config.latent_channels,
        attention_head_dim=config.attention_head_dim,
        block_type=config.decoder_block_types,  # ty: ignore[invalid-argument-type]
        block_out_channels=config.decoder_block_out_channels,
        layers_per_block=config.decoder_layers_per_block,
        qkv_multiscales=config.decoder_qkv_multiscales,
        norm_type=config.decoder_norm_types,
        act_fn=config.decoder_act_fns,
        upsample_block_type=config.upsample_block_type,
        in_shortcut=config.decoder_in_shortcut,
        conv_act_fn=config.decoder_conv_act_fn,
    )

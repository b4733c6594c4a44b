"""Latents to sound by DCAE's decoder and the vocoder, a window at a time where they are long.

C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.acestep1.codec.codec import (
    LAYOUT,
    MEL_HIGH,
    MEL_LOW,
    WINDOW_FRAMES,
    Codec,
    decode_audio,
    decode_audio_in_pieces,
    decode_mel_in_windows,
    vocode,
    vocode_in_blocks,
)
from models.acestep1.codec.vocoder import Vocoder
from models.protocols import LatentDecoder


class MelDecoder(LatentDecoder):
    """The codec's decoder, which makes mel spectrograms, and the vocoder, which makes them audible."""

    layout = LAYOUT

    def __init__(self, codec: Codec, vocoder: Vocoder) -> None:
        self.codec, self.vocoder = codec, vocoder
        self._device = next(codec.parameters()).device

    @torch.no_grad()
    def blocks(self, latents: Tensor, samples: int) -> Iterator[np.ndarray]:
        latents = latents.to(self._device)
        if latents.shape[-1] <= WINDOW_FRAMES:
            yield decode_audio(self.codec, self.vocoder, latents, samples=samples).cpu().numpy()
            return
        for piece in decode_audio_in_pieces(self.codec, self.vocoder, latents):
            yield piece[:, :samples].cpu().numpy()
            samples -= min(samples, piece.shape[1])

    @torch.no_grad()
    def rendering(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        latents = latents.to(self._device)
        if latents.shape[-1] <= WINDOW_FRAMES:
            mel = self.codec.decode_mel(latents)
            wave = vocode(self.vocoder, mel)
        else:
            mel = decode_mel_in_windows(self.codec, latents)
            wave = vocode_in_blocks(self.vocoder, mel)
        picture = (mel.mean(dim=0) - MEL_LOW) / (MEL_HIGH - MEL_LOW)
        return wave.mean(dim=0).cpu(), picture.clamp(0, 1).flip(0).cpu()

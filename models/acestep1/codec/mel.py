"""Waveform to the log-mel spectrogram that codec and vocoder share (docs/upstream.md, section 5.3).

N audio samples at 44100 Hz (a multiple of 512), F = N / 512 mel frames.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

from common.bases import ACE_STEP_1

WINDOW_SAMPLES = 2048
HOP_SAMPLES = 512
MEL_BANDS = 128
LOWEST_HZ, HIGHEST_HZ = 40.0, 16_000.0
SPECTRUM_BINS = WINDOW_SAMPLES // 2 + 1
POWER_FLOOR = 1e-6  # added to re² + im², inside the root
MEL_FLOOR = 1e-5
PADDING = (WINDOW_SAMPLES - HOP_SAMPLES) // 2


@dataclass(frozen=True)
class MelTables:
    """What a log-mel is computed with. The published vocoder stores both rounded to bfloat16; ours are exact."""

    window: Tensor  # [2048]
    filters: Tensor  # [1025, 128]


@cache
@torch.inference_mode(False)  # the first caller may be in inference mode, a later one may train through them
def mel_tables(device: torch.device) -> MelTables:
    """Exact float32 tables: a periodic Hann window; 128 triangles of Slaney's scale and area, 40 to 16000 Hz."""
    filters = melscale_fbanks(
        SPECTRUM_BINS,
        LOWEST_HZ,
        HIGHEST_HZ,
        MEL_BANDS,
        ACE_STEP_1.latents.sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )
    return MelTables(torch.hann_window(WINDOW_SAMPLES, device=device), filters.to(device))


def magnitudes(wave: Tensor, window: Tensor) -> Tensor:
    """Magnitude spectrum of overlapping windows that hang 768 samples over both ends. [..., N] -> [..., 1025, F]."""
    padded = functional.pad(wave.float(), (PADDING, PADDING), mode="reflect")
    spectrum = torch.stft(
        padded, WINDOW_SAMPLES, hop_length=HOP_SAMPLES, window=window, center=False, return_complex=True
    )
    return (spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR).sqrt()


def log_mel(wave: Tensor, tables: MelTables | None = None) -> Tensor:
    """Natural logarithm of 128 mel bands, in float32 whatever the dtype of `wave`. [2, N] -> [2, 128, F].

    `tables` are the exact ones unless given (a test rounds them as the published files do).
    """
    tables = tables or mel_tables(wave.device)
    mel = tables.filters.T @ magnitudes(wave, tables.window)
    return mel.clamp(min=MEL_FLOOR).log()

"""Fast Griffin-Lim (Perraudin et al. 2013): a wave whose windows have nearly given magnitudes.

N waves, K bins of a window, F windows, U samples = (F - 1) * hop. torchaudio's does the same in twice the time.
"""

import torch
from torch import Tensor
from torch.nn import functional


def griffin_lim(magnitudes: Tensor, window: Tensor, hop: int, *, rounds: int, momentum: float) -> Tensor:
    """Phases begin at zero; the first and the last window are centred on the wave's ends. [N, K, F] -> [N, U]

    `hop` divides the window, and the wave is longer than half a window.
    """
    wanted = magnitudes.transpose(1, 2).contiguous()
    weight = _overlapped(window.square().expand(1, wanted.shape[1], -1), hop)
    spectrum, before = wanted.to(torch.result_type(wanted, 1j)), None
    for _ in range(rounds):
        found = _spectrum(_wave(spectrum, window, hop, weight), window, hop)
        ahead = found if before is None else found.sub(before, alpha=momentum / (1 + momentum))
        spectrum, before = ahead * (wanted / (ahead.abs() + 1e-16)), found
    return _wave(spectrum, window, hop, weight)


def _spectrum(wave: Tensor, window: Tensor, hop: int) -> Tensor:
    """Of windows around every hop-th sample, with the wave mirrored at its ends. [N, U] -> [N, F, K]"""
    beside = len(window) // 2
    mirrored = functional.pad(wave[:, None], (beside, beside), mode="reflect")[:, 0]
    return torch.fft.rfft(mirrored.unfold(1, len(window), hop) * window)


def _wave(spectrum: Tensor, window: Tensor, hop: int, weight: Tensor) -> Tensor:
    """The wave whose windows come nearest to a spectrum; `weight` is what the squared windows add up to. -> [N, U]"""
    return _overlapped(torch.fft.irfft(spectrum, n=len(window)) * window, hop) / weight


def _overlapped(windows: Tensor, hop: int) -> Tensor:
    """Windows added up where they stand, without what lies outside the wave. [N, F, W] -> [N, U]"""
    count, parts = windows.shape[1], windows.unflatten(2, (-1, hop))
    added = windows.new_zeros(windows.shape[0], count + parts.shape[2] - 1, hop)
    for number in range(parts.shape[2]):
        added[:, number : number + count] += parts[:, :, number]
    outside = windows.shape[2] // 2
    return added.flatten(1)[:, outside:-outside]

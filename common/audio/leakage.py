"""How much of one wave is in another, by a filter that finds it there: needs no separator.

M samples of a mono wave.
"""

import numpy as np
import scipy.linalg

TAPS = 256
"""Length of the filter through which the vocal may have passed, centred on no delay: 12 ms at 22.05 kHz."""
RIDGE = 1e-6
"""Share of the vocal's power that steadies the projection."""
SHIFTS = np.arange(1, 9) / 9
"""Displacements of the null, as shares of the clip: the same sounds, at times unrelated to each other."""
LEAST_SHARE = 1e-6
"""Shares of energy below this read -60 dB."""


def projection_db(vocal: np.ndarray, band: np.ndarray, *, taps: int = TAPS) -> float:
    """Share of the band's energy, in dB, that a filter of `taps` makes from the vocal, less that of time shifts."""
    samples = min(vocal.size, band.size)
    voice, music = (wave[:samples].astype(np.float64) for wave in (vocal, band))
    energy = float(np.sum(music**2))
    if energy == 0.0 or not voice.any():
        return 10 * np.log10(LEAST_SHARE)
    spectrum = np.fft.rfft(voice)
    auto = np.fft.irfft(np.abs(spectrum) ** 2, samples)[:taps]
    cross = np.fft.irfft(np.conj(spectrum) * np.fft.rfft(music), samples)
    lags = np.arange(taps) - taps // 2
    targets = np.stack([cross[(lags + shift) % samples] for shift in (0, *shifts(samples))], axis=1)
    auto[0] *= 1 + RIDGE
    filters = scipy.linalg.solve(scipy.linalg.toeplitz(auto), targets, assume_a="pos")
    shares = np.sum(filters * targets, axis=0) / energy
    return float(10 * np.log10(max(shares[0] - shares[1:].mean(), LEAST_SHARE)))


def shifts(length: int) -> list[int]:
    """The displacements of the null for a clip of so many steps."""
    return [round(share * length) for share in SHIFTS]

"""How a given stem lies in its mix: with which gain, sign and delay; and the stem brought to that.

The rest of the mix is interference, as loud as the stem. What is sought is the gain and delay under which most bins of
a spectrogram are left with little: where the rest pauses, a true stem leaves nothing, and such bins decide.
Waves are stereo [2, N]; M bins of the spectrograms of loud excerpts, of both channels, in a row.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
import scipy.signal

from common.audio.disk_wave import BLOCK_SAMPLES, DiskWave
from common.audio.wave import decibels, frame_levels

FRAME_SAMPLES = 8192
EXCERPT_SAMPLES, EXCERPTS = 16 * FRAME_SAMPLES, 4
"""A stem is held against its mix where it is loudest: in four excerpts of 3 s."""
LOWEST_HZ, HIGHEST_HZ = 60, 8000
SOUNDS = 1e-4
"""A bin counts where the stem's power is at least this share of that of its loudest bin at the time."""
FLOOR = 1e-6
"""Share of the mix's mean power that is left over by chance or rounding."""
MAX_STEPS = 30
LEAST_GAIN_DB, LEAST_DELAY_SAMPLES = 0.5, 0.1
"""A stem is as it should be within these."""
FOUND_DB = 2.0
"""A stem is in its mix where taking it out lowers what its bins hold by this, in the mean."""
BETTER_DB, BETTER_SHARE = 0.5, 0.18
"""A fit is clearly better than the stem as given where it lowers its bins by the former, and by this share of all that
it lowers them."""
SEARCHED_SECONDS, NEAR_SECONDS = 1.0, 0.05
"""Delays up to the former are found; of those within the latter, and of those beyond, the likeliest is tried."""
SEARCHED_IN_SECONDS = 20
EXACT_DB, EXACT_SAMPLES = 0.05, 0.02
"""Gains this near to none, and delays this near to whole samples, are taken for that. A steady tone fits its mix a
period off too, but not so nearly."""
HALF_FILTER = 64
"""Samples on either side that a part of a sample's delay is computed from."""


@dataclass(frozen=True)
class StemFit:
    """The mix holds `gain` (negative: inverted) times the stem, `delay_samples` later."""

    gain: float
    delay_samples: float
    found_db: float = 0.0
    """How much less the stem's bins hold once it is taken out."""
    better_db: float = 0.0
    """How much less than after taking it out as given."""

    @property
    def is_found(self) -> bool:
        """Whether the stem is in the mix at all."""
        return self.found_db >= FOUND_DB

    @property
    def is_off(self) -> bool:
        """Whether the stem as given is clearly not as it lies in the mix."""
        far = self.gain < 0 or abs(self.gain_db) > LEAST_GAIN_DB or abs(self.delay_samples) > LEAST_DELAY_SAMPLES
        return self.is_found and far and self.better_db >= max(BETTER_DB, BETTER_SHARE * self.found_db)

    @property
    def is_exact(self) -> bool:
        """Whether the stem is as it lies in the mix, but for the estimate's own error."""
        return self.gain > 0 and abs(self.gain_db) < EXACT_DB and abs(self.delay_samples) < EXACT_SAMPLES

    @property
    def gain_db(self) -> float:
        return decibels(abs(self.gain))


@dataclass(frozen=True)
class _Bins:
    """Spectra where the stem sounds."""

    stem: np.ndarray  # complex [M]
    mix: np.ndarray  # complex [M]
    turn: np.ndarray  # float [M], phase by which a delay of one sample lags
    floor: float

    def left(self, gain: float, delay: float) -> np.ndarray:
        """Power [M] that is left of the mix without the stem."""
        rest = self.mix - np.float32(gain) * self._later(delay)
        return rest.real**2 + rest.imag**2 + self.floor

    def level_db(self, gain: float, delay: float) -> float:
        """Mean level of what is left."""
        return float(10 * np.mean(np.log10(self.left(gain, delay))))

    def solve(self, gain: float, delay: float) -> tuple[float, float]:
        """Gain and delay near those given that leave least in most bins: least squares, each bin by what it left."""
        for _ in range(MAX_STEPS):
            stem = self._later(delay)
            weighted = np.conj(stem) / self.left(gain, delay)
            cross, power = weighted * self.mix, (weighted * stem).real
            before, gain = gain, float(cross.real.sum() / power.sum())
            bend = gain * float((self.turn**2 * power).sum())
            step = -float((self.turn * cross.imag).sum()) / bend if bend else 0.0
            delay += float(np.clip(step, -1, 1))
            if abs(gain - before) < 1e-4 * abs(gain) and abs(step) < 1e-3:
                break
        return gain, delay

    def plain_gain(self) -> float:
        """The gain of least squares."""
        return float((np.conj(self.stem) * self.mix).real.sum() / np.square(np.abs(self.stem)).sum())

    def _later(self, delay: float) -> np.ndarray:
        return self.stem * np.exp(np.complex64(-1j * delay) * self.turn)


def fit_stem(stem: DiskWave, mix: DiskWave) -> StemFit:
    """Gain, sign and delay of a stem in its mix; `is_found` is False where it is silent or not there."""
    samples = min(stem.samples, mix.samples)
    starts = loudest(stem, samples)
    bins = _bins(stem, mix, starts, lag=0)
    if bins.stem.size == 0:
        return StemFit(1.0, 0.0)
    as_given = _judged(bins, *bins.solve(1.0, 0.0), lag=0)
    if as_given.is_found and as_given.is_exact:
        return as_given
    return max((as_given, *_fits(stem, mix, starts)), key=lambda fit: fit.found_db)


def _fits(stem: DiskWave, mix: DiskWave, starts: Sequence[int]) -> Iterator[StemFit]:
    for lag in likely_lags(stem, mix):
        bins = _bins(stem, mix, starts, lag=lag)
        if bins.stem.size:
            yield _judged(bins, *bins.solve(bins.plain_gain(), 0.0), lag=lag)


def likely_lags(stem: DiskWave, mix: DiskWave) -> list[int]:
    """How much later the mix may have what the stem has, in whole samples, by the highest peaks of their correlation:
    that within NEAR_SECONDS, and that beyond.

    Spectra are flattened to the root of their magnitude, so that a shared waveform makes a sharp peak and mere rhythm
    does not.
    """
    samples = min(stem.samples, mix.samples)
    length = SEARCHED_IN_SECONDS * stem.rate_hz
    (start,) = loudest(stem, samples, count=1, length=length)
    end = min(start + length, samples)
    size = scipy.fft.next_fast_len(2 * (end - start), real=True)
    x, y = (scipy.fft.rfft(wave.read(start, end), size) for wave in (stem, mix))
    cross = np.sum(np.conj(x) * y, axis=0)
    correlation = np.abs(scipy.fft.irfft(cross / np.sqrt(np.abs(cross) + 1e-12), size))
    reach, near = (min(int(s * stem.rate_hz), end - start - 1) for s in (SEARCHED_SECONDS, NEAR_SECONDS))
    lags = np.arange(-reach, reach + 1)
    heights, is_near = correlation[lags], np.abs(lags) <= near
    kinds = (kind for kind in (is_near, ~is_near) if kind.any())
    return [int(lags[kind][np.argmax(heights[kind])]) for kind in kinds]


def loudest(wave: DiskWave, samples: int, *, count: int = EXCERPTS, length: int = EXCERPT_SAMPLES) -> Sequence[int]:
    """Where the loudest of consecutive excerpts begin, in order."""
    starts = range(0, samples, length)
    levels = [frame_levels(wave.read(start, start + length), frame_samples=length).item() for start in starts]
    return sorted(starts[at] for at in np.argsort(levels)[::-1][:count])


def mended(stem: DiskWave, fit: StemFit, wave: DiskWave) -> DiskWave:
    """The stem as it lies in its mix, written to `wave`. Raises UserError where the disk refuses it."""
    return wave.extend(_mended_blocks(stem, fit))


def exact(fit: StemFit) -> StemFit:
    """A fit without what is but the estimate's own error."""
    whole = round(fit.delay_samples)
    delay = float(whole) if abs(fit.delay_samples - whole) < EXACT_SAMPLES else fit.delay_samples
    gain = math.copysign(1.0, fit.gain) if abs(fit.gain_db) < EXACT_DB else fit.gain
    return replace(fit, gain=gain, delay_samples=delay)


def _judged(bins: _Bins, gain: float, delay: float, *, lag: int) -> StemFit:
    left, nothing, as_given = (bins.level_db(*each) for each in ((gain, delay), (0.0, 0.0), (1.0, float(-lag))))
    return StemFit(gain, lag + delay, found_db=nothing - left, better_db=as_given - left)


def _bins(stem: DiskWave, mix: DiskWave, starts: Sequence[int], *, lag: int) -> _Bins:
    """Spectra of the stem and of what the mix has `lag` samples later."""
    low, high = (round(hz * FRAME_SAMPLES / stem.rate_hz) for hz in (LOWEST_HZ, HIGHEST_HZ))
    x = np.concatenate([_spectra(padded(stem, at - lag, at - lag + EXCERPT_SAMPLES)) for at in starts])[:, low:high]
    y = np.concatenate([_spectra(padded(mix, at, at + EXCERPT_SAMPLES)) for at in starts])[:, low:high]
    power = np.square(np.abs(x))
    sounds = power > SOUNDS * power.max(axis=1, keepdims=True)
    turn = np.broadcast_to(2 * np.pi * np.arange(low, high, dtype=np.float32) / FRAME_SAMPLES, x.shape)
    floor = FLOOR * float(np.mean(np.square(np.abs(y)))) + float(np.finfo(np.float32).tiny)
    return _Bins(x[sounds], y[sounds], turn[sounds], floor)


def _spectra(wave: np.ndarray) -> np.ndarray:
    """Of each whole frame of both channels, complex64 [frames, bins]."""
    frames = wave.reshape(-1, FRAME_SAMPLES)
    return scipy.fft.rfft(frames * np.hanning(FRAME_SAMPLES + 1)[:-1].astype(np.float32))


def padded(wave: DiskWave, start: int, end: int) -> np.ndarray:
    """Samples from `start` to before `end`, [2, end - start], with silence before and after the wave."""
    first, last = max(start, 0), min(end, wave.samples)
    if first >= last:
        return np.zeros((2, end - start), dtype=np.float32)
    return np.pad(wave.read(first, last), ((0, 0), (first - start, end - last)))


def _mended_blocks(stem: DiskWave, fit: StemFit) -> Iterator[np.ndarray]:
    whole = math.floor(fit.delay_samples)
    part, gain = fit.delay_samples - whole, np.float32(fit.gain)
    for start in range(0, stem.samples, BLOCK_SAMPLES):
        end = min(start + BLOCK_SAMPLES, stem.samples)
        if part == 0:
            yield gain * padded(stem, start - whole, end - whole)
            continue
        around = padded(stem, start - whole - HALF_FILTER, end - whole + HALF_FILTER)
        yield gain * scipy.signal.oaconvolve(around, _fraction(part)[None], mode="valid", axes=1).astype(np.float32)


def _fraction(part: float) -> np.ndarray:
    """A filter that delays by HALF_FILTER samples and `part` of one, [2 * HALF_FILTER + 1]."""
    times = np.arange(-HALF_FILTER, HALF_FILTER + 1) - part
    return np.sinc(times) * np.kaiser(2 * HALF_FILTER + 1, 8.0)

"""Pictures of a clip, as PNG: its waveform and its log-mel spectrogram, both drawn over the clip's whole length.

N samples of a stereo wave [2, N] at MEASURED_RATE_HZ; W, H width and height of a picture in pixels; F mel frames.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.files import whole_file
from models.acestep1.codec.mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel

MEASURED_RATE_HZ = 44_100
"""Rate of the waves that infer draws and measures."""
WIDTH = 1200
WAVE_HEIGHT = 96
WAVE_COLOUR = (58, 141, 149)
"""Reads on white and on black."""
MEL_RANGE = (-9.0, 2.0)
"""Natural logarithms of mel energy that are drawn darkest and brightest."""
MEL_COLOURS = {
    0.0: (13, 17, 32),
    0.35: (30, 66, 104),
    0.65: (45, 149, 150),
    0.85: (236, 190, 104),
    1.0: (255, 246, 224),
}
"""Colours at points of that range; between them they blend."""


def write_wave_picture(path: Path, wave: np.ndarray) -> None:
    """The highest and lowest sample of each column, on a transparent ground; the full height is full scale."""
    _write(path, wave_picture(wave))


def write_mel_picture(path: Path, wave: np.ndarray) -> None:
    """The codec's own log-mel, low notes below."""
    _write(path, mel_picture(wave))


def wave_picture(wave: np.ndarray) -> np.ndarray:
    """RGBA [H, W, 4] of a wave [2, N]. A column is at least one pixel high, so that silence is a line."""
    mono = wave.mean(axis=0)
    starts = np.arange(WIDTH) * mono.size // WIDTH
    highest, lowest = np.maximum.reduceat(mono, starts), np.minimum.reduceat(mono, starts)
    middle = (WAVE_HEIGHT - 1) / 2
    top = np.rint(middle * (1 - np.clip(highest, -1, 1)))
    bottom = np.maximum(np.rint(middle * (1 - np.clip(lowest, -1, 1))), top)
    rows = np.arange(WAVE_HEIGHT)[:, None]
    picture = np.zeros((WAVE_HEIGHT, WIDTH, 4), dtype=np.uint8)
    picture[(rows >= top) & (rows <= bottom)] = (*WAVE_COLOUR, 255)
    return picture


def mel_picture(wave: np.ndarray, *, width: int = WIDTH) -> np.ndarray:
    """RGB [128, W, 3] of a wave [2, N]."""
    columns = _columns(_mel(wave), width)
    low, high = MEL_RANGE
    level = np.clip((columns[::-1] - low) / (high - low), 0, 1)
    colours = np.array(list(MEL_COLOURS.values()))
    channels = [np.interp(level, list(MEL_COLOURS), channel) for channel in colours.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _mel(wave: np.ndarray) -> np.ndarray:
    """[128, F] of a wave, lengthened by silence to whole hops and to what one window needs."""
    samples = max(wave.shape[1] + -wave.shape[1] % HOP_SAMPLES, WINDOW_SAMPLES)
    padded = np.pad(wave, ((0, 0), (0, samples - wave.shape[1])))
    return log_mel(torch.from_numpy(padded.mean(axis=0, keepdims=True)))[0].numpy()


def _columns(frames: np.ndarray, width: int) -> np.ndarray:
    """[128, F] as [128, W]: each column the mean of the frames that it covers, or the one it falls into."""
    starts = np.arange(width) * frames.shape[1] // width
    counts = np.maximum(np.diff(np.append(starts, frames.shape[1])), 1)
    return np.add.reduceat(frames, starts, axis=1) / counts


def _write(path: Path, picture: np.ndarray) -> None:
    with whole_file(path) as partial:
        Image.fromarray(picture).save(partial, format="PNG")

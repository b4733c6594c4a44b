"""The excerpts that every system plays to: whole songs, or the sung stretches of a length at fixed places.

N samples of a stereo wave [2, N] at 44.1 kHz.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.audio.wave import frame_levels, write_audio
from common.canonical import sha256_of
from common.config import Config, check_config
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.benchmark.dataset import BenchmarkSong, read_song
from infer.benchmark.units import read_unit, write_unit

LITERATURE_SECONDS = 10.0
"""SingSong and those after it play and are heard in clips of this length."""
MOST_OF_A_SONG = 3
SUNG_SHARE, SUNG_RANGE_DB = 0.5, 30.0
"""An excerpt is sung for this share of its 40 ms frames: they are so far below the song's loudest, or less."""
FRAME_SAMPLES = round(0.04 * MEASURED_RATE_HZ)


class ExcerptNote(Config):
    """What is written down of an excerpt."""

    key: str
    """Names its files: the song, and for a part of it the second at which it starts."""
    song: str
    start_seconds: float
    seconds: float
    vocal_sha256: str
    true_sha256: str
    """Of the samples, float32 [2, N]: libsndfile puts the time into files of such samples."""


@dataclass(frozen=True)
class Excerpt:
    """An excerpt and its files."""

    note: ExcerptNote
    vocal: Path
    true: Path

    @property
    def key(self) -> str:
        return self.note.key


def cut_excerpts(song: BenchmarkSong, seconds: float | None, out: Path, sha256: Callable[[Path], str]) -> list[Excerpt]:
    """Write KEY_vocal.wav and KEY_inst.wav of each excerpt of a song to `out`, and say which there are.

    `seconds` is their length; None takes the song whole. A song that is not sung long enough has none. What is written
    already, of the same files, is kept. Raises UserError for a file that cannot be read, or a disk that refuses.
    """
    rule = [seconds, MOST_OF_A_SONG, SUNG_SHARE, SUNG_RANGE_DB]
    order = sha256_of([rule, *([sha256(path) for path in part] for part in (song.vocal, song.band))])
    card = out / f"{song.name}.json"
    known = read_unit(card, order)
    if known is not None:
        excerpts = [_excerpt(check_config(ExcerptNote, note, str(card)), out) for note in known]
        if all(excerpt.vocal.is_file() and excerpt.true.is_file() for excerpt in excerpts):
            return excerpts
    excerpts = list(_cut(song, seconds, out))
    write_unit(card, order, [excerpt.note.model_dump() for excerpt in excerpts])
    return excerpts


def _cut(song: BenchmarkSong, seconds: float | None, out: Path) -> Iterator[Excerpt]:
    waves = read_song(song)
    samples = waves.vocal.shape[1] if seconds is None else round(seconds * MEASURED_RATE_HZ)
    whole = [0] if waves.vocal.any() else []
    for start in whole if seconds is None else sung_places(waves.vocal, samples):
        key = song.name if seconds is None else f"{song.name}_{round(start / MEASURED_RATE_HZ):04d}s"
        vocal, band = (np.ascontiguousarray(wave[:, start : start + samples]) for wave in (waves.vocal, waves.band))
        for part, wave in (("vocal", vocal), ("inst", band)):
            write_audio(out / f"{key}_{part}.wav", wave, MEASURED_RATE_HZ, subtype="FLOAT")
        note = ExcerptNote(
            key=key,
            song=song.name,
            start_seconds=start / MEASURED_RATE_HZ,
            seconds=samples / MEASURED_RATE_HZ,
            vocal_sha256=hashlib.sha256(vocal.tobytes()).hexdigest(),
            true_sha256=hashlib.sha256(band.tobytes()).hexdigest(),
        )
        yield _excerpt(note, out)


def _excerpt(note: ExcerptNote, out: Path) -> Excerpt:
    return Excerpt(note, out / f"{note.key}_vocal.wav", out / f"{note.key}_inst.wav")


def sung_places(vocal: np.ndarray, samples: int) -> list[int]:
    """First samples of at most three stretches of that many, at whole multiples of their length, spread evenly among
    those that are sung for half their time.
    """
    levels = frame_levels(vocal, frame_samples=FRAME_SAMPLES)
    loudest = levels.max(initial=-np.inf)
    if not np.isfinite(loudest):
        return []
    sung = levels >= loudest - SUNG_RANGE_DB
    starts = range(0, vocal.shape[1] - samples + 1, samples)
    fit = [at for at in starts if sung[at // FRAME_SAMPLES : (at + samples) // FRAME_SAMPLES].mean() >= SUNG_SHARE]
    count = min(len(fit), MOST_OF_A_SONG)
    return [fit[number * len(fit) // count] for number in range(count)]

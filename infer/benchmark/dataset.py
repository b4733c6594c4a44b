"""A data set of stems as it lies on the disk: of each test song the files of its vocal and those of its band.

MUSDB18-HQ is test/SONG/{vocals,drums,bass,other}.wav. MoisesDB is SONG/data.json beside STEM/TRACK.wav; it has no test
split, so that all its songs are taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from pydantic import Field

from common.audio.wave import read_audio, stereo_at
from common.config import Config, check_config, read_json
from common.errors import UserError
from infer.audio.pictures import MEASURED_RATE_HZ

VOCAL_STEM = "vocals"
MUSDB_BAND = ("drums", "bass", "other")
MOISES_CARD = "data.json"


class MoisesTrack(Config, extra="ignore"):
    """A recording of a stem."""

    id: str
    extension: str = "wav"


class MoisesStem(Config, extra="ignore"):
    """The recordings that are one stem, in a folder of its name."""

    stem_name: str = Field(alias="stemName")
    tracks: tuple[MoisesTrack, ...] = ()


class MoisesCard(Config, extra="ignore"):
    """data.json of a song of MoisesDB, as far as it is read."""

    stems: tuple[MoisesStem, ...]


@dataclass(frozen=True)
class BenchmarkSong:
    """The files of a song; each part is the sum of its files."""

    name: str
    vocal: tuple[Path, ...]
    band: tuple[Path, ...]


@dataclass(frozen=True)
class BenchmarkData:
    """The songs on which systems are judged."""

    title: str
    songs: tuple[BenchmarkSong, ...]
    notes: tuple[str, ...]
    """What was left out."""


@dataclass(frozen=True)
class SongWaves:
    """A song's vocal and true band, stereo [2, N] at 44.1 kHz."""

    vocal: np.ndarray
    band: np.ndarray


def read_dataset(folder: Path) -> BenchmarkData:
    """The test songs of MUSDB18-HQ, or all of MoisesDB, by name.

    Raises UserError where `folder` is neither, or where a song lacks a file.
    """
    if (folder / "test").is_dir():
        songs = tuple(_musdb_song(song) for song in sorted((folder / "test").iterdir()) if song.is_dir())
        if songs:
            return BenchmarkData("MUSDB18-HQ, test songs", songs, ())
    elif cards := sorted(folder.rglob(MOISES_CARD)):
        found = [_moises_song(card) for card in cards]
        songs = tuple(song for song in found if song.vocal and song.band)
        if songs:
            return BenchmarkData("MoisesDB, all songs (it has no test split)", songs, tuple(_without(found)))
    raise UserError(
        f"{folder}: holds no songs of MUSDB18-HQ (test/SONG/vocals.wav, drums.wav, bass.wav, other.wav) and none of "
        f"MoisesDB (SONG/{MOISES_CARD} beside folders of stems). Name the folder that was unpacked."
    )


def check_apart(folder: Path, output_dir: Path) -> None:
    """Raises UserError for results among the test songs, which the next run would take for a song."""
    songs = (folder / "test").resolve()
    if output_dir.resolve().is_relative_to(songs):
        raise UserError(f"--output-dir {output_dir}: lies among the songs of {folder / 'test'}. Name another folder.")


def _musdb_song(folder: Path) -> BenchmarkSong:
    vocal, *band = (folder / f"{stem}.wav" for stem in (VOCAL_STEM, *MUSDB_BAND))
    for path in (vocal, *band):
        if not path.is_file():
            raise UserError(f"{folder.name}: {path.name} is missing in {folder}. Unpack the data set again.")
    return BenchmarkSong(folder.name, (vocal,), tuple(band))


def _moises_song(card: Path) -> BenchmarkSong:
    stems = check_config(MoisesCard, read_json(card), str(card)).stems
    vocal, band = list[Path](), list[Path]()
    for stem in stems:
        for track in stem.tracks:
            path = card.parent / stem.stem_name / f"{track.id}.{track.extension}"
            if not path.is_file():
                raise UserError(f"{card.parent.name}: {path} is missing. Unpack the data set again.")
            (vocal if stem.stem_name == VOCAL_STEM else band).append(path)
    return BenchmarkSong(card.parent.name, tuple(vocal), tuple(band))


def _without(songs: Sequence[BenchmarkSong]) -> Iterator[str]:
    lacking = [song.name for song in songs if not (song.vocal and song.band)]
    if lacking:
        yield f"left out, without a vocal or a band: {len(lacking)} of {len(songs)} songs ({', '.join(lacking)})."


def read_song(song: BenchmarkSong) -> SongWaves:
    """Its vocal and its band, each the sum of its files; a file that ends before the others ends in silence.

    Raises UserError for a file that cannot be read.
    """
    parts = [[_wave(path) for path in paths] for paths in (song.vocal, song.band)]
    samples = max(wave.shape[1] for wave in chain(*parts))
    vocal, band = (_sum(waves, samples) for waves in parts)
    return SongWaves(vocal, band)


def _wave(path: Path) -> np.ndarray:
    try:
        return stereo_at(read_audio(path), MEASURED_RATE_HZ)
    except UserError as error:
        raise UserError(f"{path.parent.name}: {error}") from None


def _sum(waves: Sequence[np.ndarray], samples: int) -> np.ndarray:
    total = np.zeros((2, samples), dtype=np.float32)
    for wave in waves:
        total[:, : wave.shape[1]] += wave
    return total

"""Whose bands are judged: systems that run here, and folders of bands that other programs made."""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.audio.decode import AUDIO_SUFFIXES, audio_seconds, audio_stream
from common.errors import UserError
from common.texts.naming import one_form
from infer.benchmark.excerpts import Excerpt
from infer.compare.inputs import UNSAFE
from infer.evaluate.evaluate import read_clip
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.sanity import LENGTH_ERROR_SECONDS

TAKE_NAME = re.compile(r"(?P<key>.+?)(?:_accompaniment)?(?:_(?P<number>\d{1,3}))?", re.DOTALL)


@dataclass(frozen=True)
class Take:
    """A band for an excerpt."""

    path: Path
    sha256: str

    def note(self) -> dict[str, str]:
        """As a unit holds it."""
        return {"file": self.path.name, "sha256": self.sha256}


class BenchmarkSystem:
    """Bands of one origin for every excerpt: one, or one for each seed."""

    name: str
    about: Mapping[str, Any]
    """What it was made with, as far as that is known."""

    @abstractmethod
    def heard(self, excerpt: Excerpt) -> list[str]:
        """Hashes of what its bands depend on."""

    @abstractmethod
    def bands(self, excerpt: Excerpt) -> tuple[Clip, ...]:
        """The bands. Raises UserError for one that cannot be read."""


class BandFiles(BenchmarkSystem):
    """Bands that lie on the disk, by the excerpt's key."""

    def __init__(self, name: str, takes: Mapping[str, tuple[Take, ...]], about: Mapping[str, Any]) -> None:
        self.name, self.takes, self.about = name, takes, about

    def heard(self, excerpt: Excerpt) -> list[str]:
        return [take.sha256 for take in self.takes[excerpt.key]]

    def bands(self, excerpt: Excerpt) -> tuple[Clip, ...]:
        return tuple(read_clip(take.path) for take in self.takes[excerpt.key])


def read_named_folder(text: str, taken: Sequence[str]) -> tuple[str, Path]:
    """NAME=FOLDER. Raises UserError for another form, a name that no file can have or another system has."""
    name, equals, folder = text.partition("=")
    if not equals or not folder or not re.fullmatch(rf"[^.{UNSAFE}][^{UNSAFE}]*", name):
        raise UserError(f"--system {text}: give NAME=FOLDER, a name and the folder of the bands.")
    if name.casefold() in (other.casefold() for other in taken):
        raise UserError(f"--system {text}: {name} is taken. Give another name.")
    if not Path(folder).is_dir():
        raise UserError(f"--system {text}: {folder} is no folder.")
    return name, Path(folder)


def read_folder(name: str, folder: Path, excerpts: Sequence[Excerpt], sha256: Callable[[Path], str]) -> BandFiles:
    """The bands of a folder: KEY.wav for each excerpt, or KEY_01.wav, KEY_02.wav, ... for several seeds.

    Raises UserError, which names the excerpt, where one is missing, has fewer seeds than others, is of another length
    than its vocal, or of another rate than the others are.
    """
    files = _by_key(folder, [excerpt.key for excerpt in excerpts])
    missing = [excerpt.key for excerpt in excerpts if not files[excerpt.key]]
    if missing:
        raise UserError(
            f"{folder}: {missing[0]}.wav is missing ({len(missing)} of {len(excerpts)} excerpts are), and a mean over "
            f"fewer songs compares with nothing. Make it for {missing[0]}_vocal.wav in excerpts/."
        )
    first, takes = excerpts[0].key, {}
    rate_hz = _rate_hz(files[first][0])
    for excerpt in excerpts:
        paths = files[excerpt.key]
        if len(paths) != len(files[first]):
            counts = f"{len(paths)} bands for {excerpt.key} and {len(files[first])} for {first}"
            raise UserError(f"{folder}: {counts}. Give equally many.")
        for path in paths:
            _check(path, excerpt, rate_hz, first)
        takes[excerpt.key] = tuple(Take(path, sha256(path)) for path in paths)
    return BandFiles(name, takes, {"rate_hz": rate_hz})


def _by_key(folder: Path, keys: Sequence[str]) -> dict[str, list[Path]]:
    """Files of each key in the order of their numbers; a name that is a key is no other key with a number."""
    found: dict[str, list[tuple[int, Path]]] = {one_form(key): [] for key in keys}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            stem = one_form(path.stem)
            match = TAKE_NAME.fullmatch(stem)
            if stem in found:
                found[stem].append((0, path))
            elif match is not None and match["key"] in found:
                found[match["key"]].append((int(match["number"] or 0), path))
    for key, paths in found.items():
        numbers = [number for number, _ in paths]
        if len(set(numbers)) < len(numbers):
            raise UserError(
                f"{folder}: {paths[0][1].name} and {paths[1][1].name} are both the band of {key}. Keep one."
            )
    return {key: [path for _, path in sorted(found[one_form(key)])] for key in keys}


def _rate_hz(path: Path) -> int:
    with audio_stream(path) as stream:
        return stream.rate_hz


def _check(path: Path, excerpt: Excerpt, rate_hz: int, first: str) -> None:
    own_hz = _rate_hz(path)
    if own_hz != rate_hz:
        raise UserError(
            f"{path}: the band of {excerpt.key} is at {own_hz} Hz, that of {first} at {rate_hz} Hz. Mend it."
        )
    seconds = audio_seconds(path)
    if abs(seconds - excerpt.note.seconds) > LENGTH_ERROR_SECONDS:
        raise UserError(
            f"{path}: the band of {excerpt.key} lasts {seconds:.2f} s and its vocal {excerpt.note.seconds:.2f} s; "
            f"{LENGTH_ERROR_SECONDS:.3f} s may lie between. Make it as long as the vocal."
        )

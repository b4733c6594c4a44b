"""The vocal of a full song by a program of the user's: separator.command.

The program gets the mix as a WAV file and an empty folder, and leaves stems there as any separator does. They are read
by their names (prep/sources/layout.py) and held against the mix as given stems are. Waves are stereo [2, N].
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from common.audio.decode import AUDIO_SUFFIXES, audio_stream
from common.audio.disk_wave import DiskWave
from common.audio.wave import stereo_blocks_at
from common.canonical import sha256_of, sha256_of_file
from common.errors import UserError
from prep.config import StemsConfig
from prep.sources.align import align
from prep.sources.layout import ResolvedStems, lay_out
from prep.sources.tracks import SongTracks
from shards.rejection import SongError
from shards.schema import Part

MOST_SECONDS = 3600
"""A program that takes longer for one song is stopped."""
SAID_LETTERS = 200
"""How much of a program's last line is passed on."""
SONG = "song"
"""Name of the mix's file, and of the folder that the program fills."""


@dataclass(frozen=True)
class SeparatorCommand:
    """A program that separates songs, with its arguments; {mix} and {out} stand for paths."""

    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """As which samples name it: the program, or the script that Python runs."""
        program, *rest = self.arguments
        is_script = Path(program).name.startswith("python") and rest[0].endswith(".py")
        return Path(rest[0] if is_script else program).name

    def content_hash(self) -> str:
        """SHA-256 over the arguments; of those that are files, over their bytes."""
        content = [sha256_of_file(Path(word)) if _is_file(word) else word for word in self.arguments]
        return sha256_of(["command", *content])


class CommandSeparator:
    """A separator that starts a program for each song."""

    rate_hz = 44_100
    """Of the WAV file that the program is given, whatever the base model: what separators work at."""

    def __init__(self, command: SeparatorCommand, stems: StemsConfig) -> None:
        self.name, self._command, self._stems = command.name, command, stems

    def vocal(self, mix: DiskWave) -> Iterator[np.ndarray]:
        """The vocal of a song in blocks [2, n], brought to where it lies in the mix.

        Raises SongError where the program fails, leaves nothing that is known as a vocal or a band, or something else
        than the mix holds.
        """
        with TemporaryDirectory(dir=mix.folder) as room, ExitStack() as waves:
            left = self._run(mix, Path(room))
            tracks = self._tracks(left, mix, waves)
            for block in tracks.blocks():
                yield tracks.part("vocal", block)
            if tracks.samples < mix.samples:
                yield np.zeros((2, mix.samples - tracks.samples), dtype=np.float32)

    def _run(self, mix: DiskWave, room: Path) -> ResolvedStems:
        """What the program leaves of a song."""
        given, out, said = room / "mix" / f"{SONG}.wav", room / "stems" / SONG, room / "said.txt"
        given.parent.mkdir()
        out.mkdir(parents=True)
        with soundfile.SoundFile(given, "w", mix.rate_hz, 2, "FLOAT") as file:
            for block in mix.blocks():
                file.write(block.T)
        words = [word.replace("{mix}", str(given)).replace("{out}", str(out)) for word in self._command.arguments]
        try:
            with said.open("wb") as output:
                code = subprocess.run(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=MOST_SECONDS, check=False
                ).returncode
        except OSError as error:
            raise self._error(f"cannot be started ({error.strerror})") from None
        except subprocess.TimeoutExpired:
            raise self._error(f"was stopped after {MOST_SECONDS} s") from None
        if code != 0:
            raise self._error(f"failed with exit code {code} ({_last_line(said)})")
        return self._stems_in(out)

    def _stems_in(self, out: Path) -> ResolvedStems:
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES)
        layout = lay_out(files, out.parent)
        try:
            songs = [stems.resolve(name) for name, stems in layout.songs.items()]
        except SongError as error:
            raise self._error(f"left stems that are not clear: {error}") from None
        found = [stems for stems in songs if stems.files.keys() & {"vocal", "inst"}]
        if len(found) != 1:
            names = ", ".join(path.name for path in files[:4]) or "nothing"
            what = "no vocal and no band" if not found else f"stems of {len(found)} songs"
            raise self._error(f"left {what} ({names})")
        return found[0]

    def _tracks(self, left: ResolvedStems, mix: DiskWave, waves: ExitStack) -> SongTracks:
        """The vocal that the program left, or else its band, held against the mix."""
        part: Part = "vocal" if "vocal" in left.files else "inst"
        if part == "inst" and left.added:
            raise self._error("left a band in several stems and no vocal")
        wave = waves.enter_context(DiskWave(mix.rate_hz, mix.folder))
        path = left.files[part]
        try:
            with audio_stream(path) as stream:
                wave.extend(stereo_blocks_at(stream, mix.rate_hz))
            return align(
                {part: wave, "mix": mix},
                self._stems,
                lambda: waves.enter_context(DiskWave(mix.rate_hz, mix.folder)),
            )
        except UserError as error:
            raise self._error(f"left a {part} that cannot be used: {error}") from None

    def _error(self, what: str) -> SongError:
        return SongError("not_separated", f"separator.command: {self.name} {what}.".replace("..", "."))


def find_command(command: str) -> SeparatorCommand:
    """The program that separator.command names. Raises UserError where there is none, or {mix} or {out} is missing."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UserError(f"separator.command: {command}: cannot be split into words ({error}).") from None
    for needed in ("{mix}", "{out}"):
        if not any(needed in word for word in words[1:]):
            raise UserError(
                f'separator.command: {command}: has no {needed}. Write it as "prog {{mix}} {{out}}": the file to '
                "separate, and the folder for its stems."
            )
    if shutil.which(words[0]) is None:
        raise UserError(f"separator.command: {words[0]}: no such program.")
    return SeparatorCommand(words)


def _is_file(word: str) -> bool:
    return Path(word).is_file()


def _last_line(said: Path) -> str:
    lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
    words = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "it said nothing")
    return words[-SAID_LETTERS:].rstrip(".")

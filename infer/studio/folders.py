"""Sessions as folders: a vocal, its takes and what was said of them, whole at any moment.

    SESSIONS/20261129-081500-1a2b3c/
        session.json               written first, with the recording's measures
        recording.wav              as it came
        voice_vocal.wav            the part of it that bands are made for
        take-01_accompaniment.wav  take-01_mix.wav   take-01_measures.json
        voice_lead_sheet.txt       tempo, beats, key and chords, inferred from the vocal or as a person changed them
        take-01_lead_sheet.txt     what that band follows, of an adapter that takes one
        take-01.json               what `infer generate` writes, last
        ratings.json               stars
        test_set.json              for `infer compare`

A file appears by rename, and a take is there when its record is. What was being made when a process died lies in a
hidden folder, which the next one removes. `infer evaluate --items SESSION` takes a session as it is.
"""

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Annotated, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from common.audio.wave import read_audio
from common.canonical import canonical_json
from common.config import Config, check_config, read_json
from common.errors import UserError
from common.files import flush, move_file, whole_file
from common.music.lead_sheet import LeadSheet
from common.music.notation import write_lead_sheet
from common.progress import say
from infer.band.generate import GeneratedFiles
from infer.request.harmonise import harmoniser_record, sung_lead_sheet
from infer.request.lead_sheet import read_sheet
from infer.request.record import GenerationRecord, HarmoniserRecord
from infer.request.text_inputs import NO_PROMPT
from infer.studio.upload import cut_wave
from infer.studio.voice import VoiceAnalysis, analyse_voice
from models.harmony.trained import SHIPPED_HARMONISER

SESSION_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
TAKE_NAME = re.compile(r"take-(\d{2,4})")
CARD, RECORDING, VOCAL, LEAD_SHEET, RATINGS, TEST_SET = (
    "session.json",
    "recording.wav",
    "voice_vocal.wav",
    "voice_lead_sheet.txt",
    "ratings.json",
    "test_set.json",
)
"""`infer generate` finds the lead sheet beside the vocal, by its name."""
MAKING = ".making"
SHORTEST_SECONDS = 1.0
"""Of a part that is cut out."""
WRITING = RLock()
"""Held by the thread that changes a card, so that none reads what another is about to replace."""


class MissingError(UserError):
    """There is no such session, or no such take."""


class SessionCard(Config):
    """session.json."""

    format: Literal[1] = 1
    name: str
    """What the recording was called."""
    created: str
    """Local time."""
    start_seconds: float
    """Where in the recording the vocal begins."""
    voice: VoiceAnalysis
    """Of the vocal."""
    harmoniser: HarmoniserRecord | None = Field(default=None, exclude_if=lambda harmoniser: harmoniser is None)
    """What its first lead sheet was inferred by; absent where that was given."""
    prompt: str = ""
    """The latest."""


class TakeMeasures(Config):
    """take-NN_measures.json: what a band sounds like beside its vocal, each figure with its null in docs/studio.md."""

    lufs: float | None
    """Loudness of what is played; null for silence."""
    key: str | None = None
    rank: float | None = None
    """Place of the band as it is among its 12 transpositions, by fit to the vocal: 1 is best, 6.5 is chance."""
    leak: float | None = None
    """Fine structure of the vocal in the band, above that of shifted times: 0 is none."""
    other_rank: float | None = None
    other_leak: float | None = None
    """The same beside another session's vocal."""
    tempo: float | None = None
    """Beats a minute, as a tracker hears the band; null where it follows no lead sheet."""
    sheet_tempo: float | None = None
    """That of the lead sheet."""
    beats: float | None = None
    """F-measure of the band's beats, within 70 ms, against the lead sheet's."""
    chance_beats: float | None = None
    """The same off phase: what beats of that tempo score by chance."""


class Ratings(Config):
    """ratings.json."""

    stars: dict[str, Annotated[int, Field(ge=1, le=5)]] = Field(default_factory=dict)
    """By the take's name."""


@dataclass(frozen=True)
class StoredTake:
    """A take that is whole."""

    name: str
    record: GenerationRecord
    measures: TakeMeasures | None
    folder: Path

    @property
    def has_voice(self) -> bool:
        """Whether the voice is in it, as in what an adapter of whole mixes makes."""
        return self.record.results[0].accompaniment is None

    @property
    def sound(self) -> Path:
        """The band alone, where there is one."""
        result = self.record.results[0]
        return self.folder / (result.accompaniment or result.mix)

    @property
    def mix(self) -> Path:
        return self.folder / self.record.results[0].mix


class SessionFolders:
    """All sessions of one folder, which this process alone writes to, and what infers their lead sheets.

    Raises UserError where the disk refuses, or another studio has the folder.
    """

    def __init__(self, root: Path, harmoniser: Path = SHIPPED_HARMONISER) -> None:
        self.root, self._harmoniser = root, harmoniser
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(root / ".studio.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{root}: another studio has it open. Name another folder with --sessions-dir, or stop that one."
            ) from None
        except OSError as error:
            raise UserError(f"{root}: cannot be written ({error.strerror}). Name another folder.") from error
        for left in (*root.glob(f"{MAKING}*"), *root.glob(f"*/{MAKING}*")):
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Leave the folder to others."""
        self._lock.release()

    def making(self) -> Path:
        """A fresh hidden folder for what is not whole yet."""
        path = self.root / f"{MAKING}-{secrets.token_hex(6)}"
        path.mkdir()
        return path

    def create(
        self,
        recording: Path,
        *,
        name: str,
        start: float = 0.0,
        end: float | None = None,
        sheet: LeadSheet | None = None,
    ) -> "StudioSession":
        """A session of a recording, a wave in a folder of `making`, which becomes the session's.

        Its lead sheet is `sheet`, by default what is inferred from the vocal.
        Raises UserError for a recording that is silent or too short, and where the disk refuses.
        """
        folder = recording.parent
        recording = recording.rename(folder / RECORDING)
        vocal = folder / VOCAL
        if start == 0.0 and end is None:
            shutil.copyfile(recording, vocal)
        else:
            cut_wave(recording, vocal, start_seconds=start, end_seconds=end or float("inf"))
        now = time.localtime()
        card = SessionCard(
            name=name,
            created=time.strftime("%Y-%m-%d %H:%M:%S", now),
            start_seconds=start,
            voice=analyse_voice(vocal),
            harmoniser=harmoniser_record(self._harmoniser) if sheet is None else None,
        )
        _write(folder / CARD, card.model_dump_json(indent=2))
        sheet = sung_lead_sheet(read_audio(vocal), self._harmoniser) if sheet is None else sheet
        if sheet is not None:
            _write(folder / LEAD_SHEET, write_lead_sheet(sheet))
        for path in (recording, vocal):
            flush(path)
        placed = self.root / f"{time.strftime('%Y%m%d-%H%M%S', now)}-{secrets.token_hex(3)}"
        move_file(folder, placed)
        return StudioSession(placed)

    def open(self, name: str) -> "StudioSession":
        """The session of that name. Raises MissingError where there is none."""
        folder = self.root / name if SESSION_NAME.fullmatch(name) else None
        if folder is None or not (folder / CARD).is_file():
            raise MissingError("there is no such session.")
        return StudioSession(folder)

    def names(self) -> list[str]:
        """Of every session, the newest first."""
        found = (path.name for path in self.root.iterdir() if (path / CARD).is_file())
        return sorted(filter(SESSION_NAME.fullmatch, found), reverse=True)

    def cut(self, session: "StudioSession", *, start: float, end: float) -> "StudioSession":
        """A session of a part of another's vocal, with that part of its lead sheet.

        Raises UserError for less than SHORTEST_SECONDS.
        """
        if end - start < SHORTEST_SECONDS:
            raise UserError(f"{end - start:.2f} s is too short; keep {SHORTEST_SECONDS:g} s or more.")
        folder = self.making()
        try:
            copy = folder / "copy.wav"
            shutil.copyfile(session.folder / RECORDING, copy)
            card, sheet = session.card(), session.lead_sheet()
            first, last = (card.start_seconds + seconds for seconds in (start, end))
            part = None if sheet is None else sheet.cut(start, end)
            known = part if part is not None and part.bars else None
            return self.create(copy, name=card.name, start=first, end=last, sheet=known)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class StudioSession:
    """One session's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def vocal(self) -> Path:
        return self.folder / VOCAL

    def card(self) -> SessionCard:
        return check_config(SessionCard, read_json(self.folder / CARD), str(self.folder / CARD))

    def lead_sheet(self) -> LeadSheet | None:
        """What the bands follow; None where nothing is sung. Raises UserError for one that cannot be read."""
        path = self.folder / LEAD_SHEET
        return read_sheet(path) if path.is_file() else None

    def keep_lead_sheet(self, sheet: LeadSheet) -> None:
        """Raises UserError where the disk refuses."""
        _write(self.folder / LEAD_SHEET, write_lead_sheet(sheet))

    def remember_prompt(self, prompt: str) -> None:
        """Keep the latest prompt, and the test set that `infer compare` takes. Raises UserError where the disk does."""
        tests = [{"key": "voice", "vocal_path": VOCAL, "prompt": prompt or NO_PROMPT}]
        with WRITING:
            _write(self.folder / CARD, self.card().model_copy(update={"prompt": prompt}).model_dump_json(indent=2))
            _write(self.folder / TEST_SET, canonical_json(tests, indent=2))

    def takes(self) -> list[StoredTake]:
        """Those that are whole, in order; one that cannot be read is named on stderr."""
        return list(self._takes())

    def _takes(self) -> Iterator[StoredTake]:
        for path in sorted(self.folder.glob("take-*.json")):
            if TAKE_NAME.fullmatch(path.stem):
                try:
                    yield self.take(path.stem)
                except UserError as error:
                    say(f"warning: {error}")

    def take(self, name: str) -> StoredTake:
        """Raises MissingError where there is none of that name."""
        record = self.folder / f"{name}.json"
        if not TAKE_NAME.fullmatch(name) or not record.is_file():
            raise MissingError("there is no such take.")
        measures = self.folder / f"{name}_measures.json"
        return StoredTake(
            name=name,
            record=check_config(GenerationRecord, read_json(record), str(record)),
            measures=check_config(TakeMeasures, read_json(measures), str(measures)) if measures.is_file() else None,
            folder=self.folder,
        )

    def next_take(self) -> str:
        """A name that no file of the session begins with."""
        found = (TAKE_NAME.match(path.name) for path in self.folder.iterdir())
        return f"take-{max((int(match[1]) for match in found if match), default=0) + 1:02d}"

    def keep(self, made: GeneratedFiles) -> str:
        """Move what was made here, the record last; the take's name comes back. Raises UserError as a move does."""
        sheet = () if made.lead_sheet is None else (made.lead_sheet,)
        for path in (*made.accompaniments, *made.mixes, *sheet, made.record):
            move_file(path, self.folder / path.name)
        return made.record.stem

    def keep_measures(self, take: str, measures: TakeMeasures) -> None:
        """Raises UserError where the disk refuses."""
        _write(self.folder / f"{take}_measures.json", measures.model_dump_json(indent=2))

    def ratings(self) -> Ratings:
        path = self.folder / RATINGS
        return check_config(Ratings, read_json(path), str(path)) if path.is_file() else Ratings()

    def rate(self, take: str, stars: int) -> None:
        """Give a take stars, or none for 0. Raises UserError where the disk refuses."""
        with WRITING:
            others = {name: given for name, given in self.ratings().stars.items() if name != take}
            given = Ratings(stars=others | ({take: stars} if stars else {}))
            _write(self.folder / RATINGS, given.model_dump_json(indent=2))

    def files(self) -> list[Path]:
        """What a copy of the session holds."""
        found = (path for path in self.folder.iterdir() if path.is_file() and not path.is_symlink())
        return sorted(path for path in found if not path.name.startswith("."))


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")

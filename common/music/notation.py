"""Lead sheets as text: the bars of a musician, and the .lab files of programs.

    key: A minor
    time: 4/4
    bpm: 112
    offset: 0.35
    | Am | F . . G | C~62 | @108 G7 |

A bar has one name (its chord), one a beat ("." holds the one before), or as many as part it evenly; "%" is the bar
before once more, "@108" a tempo from this bar on, "3/4" a time. "~62" after a chord, a tempo or the key says how sure
it is, in per cent; nothing says 100. A line that begins with "#" is a remark.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from common.errors import UserError
from common.music.chord import NO_CHORD, Chord, Key, spelling_in
from common.music.lead_sheet import FASTEST_BPM, MOST_BEATS, SLOWEST_BPM, BeatChord, LeadSheet, SheetBar

BARS_A_LINE = 4
HEADERS = ("key", "time", "bpm", "offset")
ONCE = ("key", "offset")
"""Those that hold for all of a sheet; the others may change from bar to bar."""
SURE = re.compile(r"(?P<value>.*?)\s*(?:~(?P<percent>\d{1,3}))?")


def write_lead_sheet(sheet: LeadSheet) -> str:
    """A lead sheet as text; `read_lead_sheet` gives it back as it was."""
    lines = []
    if sheet.key is not None:
        lines.append(f"key: {sheet.key.name}{_sure(sheet.key.confidence, before=' ')}")
    if sheet.bars:
        first = sheet.bars[0]
        lines += [f"time: {first.beats}/4", f"bpm: {first.bpm:.10g}{_sure(first.confidence, before=' ')}"]
    lines.append(f"offset: {sheet.offset:.10g}")
    bars = list(_written_bars(sheet))
    rows = [bars[start : start + BARS_A_LINE] for start in range(0, len(bars), BARS_A_LINE)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _sure(confidence: float, before: str = "") -> str:
    percent = round(100 * confidence)
    return "" if percent == 100 else f"{before}~{percent}"


def _written_bars(sheet: LeadSheet) -> Iterator[str]:
    spelling = spelling_in(sheet.key)
    tempo, beats = None, None
    for number, bar in enumerate(sheet.bars):
        marks = []
        if number and bar.beats != beats:
            marks.append(f"{bar.beats}/4")
        if number and (bar.bpm, bar.confidence) != tempo:
            marks.append(f"@{bar.bpm:.10g}{_sure(bar.confidence)}")
        tempo, beats = (bar.bpm, bar.confidence), bar.beats
        yield " ".join([*marks, *_written_chords(bar, spelling)])


def write_chords(bar: SheetBar, key: Key | None) -> str:
    """The chords of one bar as a sheet in that key has them, without how sure they are."""
    sure = tuple(one.model_copy(update={"confidence": 1.0}) for one in bar.chords)
    return " ".join(_written_chords(bar.model_copy(update={"chords": sure}), spelling_in(key)))


def _written_chords(bar: SheetBar, spelling: tuple[str, ...]) -> list[str]:
    names = ["."] * bar.beats
    for one in bar.chords:
        name = NO_CHORD if one.chord is None else one.chord.name(spelling)
        names[one.beat] = name + _sure(one.confidence)
    count = next(count for count in range(1, bar.beats + 1) if _is_even(bar, count))
    return names[:: bar.beats // count]


def _is_even(bar: SheetBar, count: int) -> bool:
    """Whether `count` names, evenly spread, say all of a bar."""
    return bar.beats % count == 0 and all(one.beat % (bar.beats // count) == 0 for one in bar.chords)


@dataclass(frozen=True)
class _Reading:
    """What holds for the next bar."""

    beats: int = 4
    bpm: float | None = None
    confidence: float = 1.0


def read_lead_sheet(text: str, name: str = "lead sheet") -> LeadSheet:
    """The lead sheet that `text` writes; `name` is quoted in errors.

    Raises UserError, one line with the number of the line, for what cannot be read.
    """
    reading, key, offset = _Reading(), None, 0.0
    once: set[str] = set()
    bars: list[SheetBar] = []
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    for number, line in enumerate(lines, start=1):
        where = f"{name}, line {number}"
        if not line or line.startswith("#"):
            continue
        if "|" in line:
            for bar in line.strip("|").split("|"):
                if bar.strip():
                    reading, made = _read_bar(bar.split(), reading, bars, where)
                    bars.append(made)
            continue
        header, _, value = (part.strip() for part in line.partition(":"))
        if header.lower() in ONCE and header.lower() in once:
            raise UserError(f"{where}: a second {header.lower()}; a sheet has one. Take one out.")
        once.add(header.lower())
        value, confidence = _parted(value, where)
        match header.lower():
            case "key":
                with _located(where):
                    key = Key.of_name(value, confidence)
            case "time":
                reading = replace(reading, beats=_time(value, where))
            case "bpm":
                reading = replace(reading, bpm=_tempo(value, where), confidence=confidence)
            case "offset":
                offset = _number(value, where, "offset", -3600, 36000)
            case _:
                raise UserError(f"{where}: {line!r} is neither bars between | nor one of {', '.join(HEADERS)}.")
    return LeadSheet(offset=offset, key=key, bars=tuple(bars))


def _read_bar(names: list[str], reading: _Reading, before: list[SheetBar], where: str) -> tuple[_Reading, SheetBar]:
    while names and (names[0].startswith("@") or re.fullmatch(r"\d+/\d+", names[0])):
        if names[0].startswith("@"):
            value, confidence = _parted(names[0][1:], where)
            reading = replace(reading, bpm=_tempo(value, where), confidence=confidence)
        else:
            reading = replace(reading, beats=_time(names[0], where))
        names = names[1:]
    if reading.bpm is None:
        raise UserError(f'{where}: no tempo stands before the first bar. Write a line such as "bpm: 112" above it.')
    chords = before[-1].chords if names == ["%"] and before else tuple(_read_chords(names, reading.beats, where))
    if chords[-1].beat >= reading.beats:
        raise UserError(f"{where}: % repeats a bar that is longer than {reading.beats} beats.")
    return reading, SheetBar(bpm=reading.bpm, beats=reading.beats, confidence=reading.confidence, chords=chords)


def _read_chords(names: list[str], beats: int, where: str) -> Iterator[BeatChord]:
    if not names or beats % len(names):
        raise UserError(
            f"{where}: {len(names)} chords do not part a bar of {beats} beats evenly. Write one name a beat, "
            'with "." where the chord before goes on.'
        )
    if names[0] in {".", "%"}:
        raise UserError(f"{where}: a bar begins with a chord or {NO_CHORD}, not with {names[0]}")
    for place, name in enumerate(names):
        if name == ".":
            continue
        value, confidence = _parted(name, where)
        with _located(where):
            chord = None if value in {NO_CHORD, "NC", "N"} else Chord.of_name(value)
        yield BeatChord(beat=place * beats // len(names), chord=chord, confidence=confidence)


@contextmanager
def _located(where: str) -> Generator[None]:
    """Say in an error where in the text it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _parted(text: str, where: str) -> tuple[str, float]:
    """A value and how sure it is."""
    found = SURE.fullmatch(text)
    assert found is not None, "any text is a value"
    percent = int(found["percent"] or 100)
    if percent > 100:
        raise UserError(f"{where}: ~{percent} is above 100: it says how sure {found['value']!r} is, in per cent.")
    return found["value"], percent / 100


def _time(value: str, where: str) -> int:
    found = re.fullmatch(r"(\d{1,3})/(4|8)", value)
    if found is None or not 1 <= int(found[1]) <= MOST_BEATS:
        raise UserError(f"{where}: time {value!r} is none of 1/4 to {MOST_BEATS}/4 (in n/8 a beat is an eighth).")
    return int(found[1])


def _tempo(value: str, where: str) -> float:
    return _number(value, where, "bpm", SLOWEST_BPM, FASTEST_BPM)


def _number(value: str, where: str, what: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"{where}: {what} {value!r} is no number.") from None
    if not low <= number <= high:
        raise UserError(f"{where}: {what} {number:g} is outside {low:g} to {high:g}.")
    return number


def write_lab(sheet: LeadSheet) -> str:
    """The chords as a .lab file: a line each of start, end and label, tab-separated; neighbours alike are one line."""
    rows = [
        (label, list(same))
        for label, same in groupby(
            sheet.chord_segments(), key=lambda one: "N" if one.chord is None else one.chord.harte
        )
    ]
    return "".join(f"{same[0].start:.3f}\t{same[-1].end:.3f}\t{label}\n" for label, same in rows)


def read_lab(text: str, name: str = "chords") -> Iterator[tuple[float, float, Chord | None]]:
    """Start, end and chord of each line of a .lab file, in order of time.

    Raises UserError, one line, for what is no such line, ends before it starts or starts before the line above does.
    """
    before = 0.0
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if not line.strip():
            continue
        where, parts = f"{name}, line {number}", line.split()
        if len(parts) != 3:
            raise UserError(f"{where}: {line.strip()!r} is not start, end and chord label.")
        start, end = (_number(part, where, "time", 0, 1e6) for part in parts[:2])
        if end < start:
            raise UserError(f"{where}: ends at {end:g} s and starts at {start:g} s. Mend it.")
        if start < before:
            raise UserError(
                f"{where}: starts at {start:g} s, the line above at {before:g} s. Put lines in order of time."
            )
        before = start
        with _located(where):
            chord = Chord.of_harte(parts[2])
        yield start, end, chord

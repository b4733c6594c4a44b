"""Charts as SVG text, for a page that loads nothing: dots and lines between two axes, bars, parallel axes.

Colours and strokes are the page's: each mark carries the class of what it shows.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 300
NARROW = 460
"""Width of a chart that stands beside another."""
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 30, 44
"""Margins of a chart, for its axes."""
EDGE = 8
"""Room between an axis and the outermost marks."""
TICKS = 5
"""About as many numbers on an axis."""
STEPS = (1, 2, 2.5, 5, 10)
"""Distances between two numbers on an axis, but for a power of ten."""
BAR = 26
"""Height of a bar and the space to the next."""
LONGEST_NAME = 18
"""Letters of a name beside an axis."""


@dataclass(frozen=True)
class Axis:
    """What one direction of a chart means."""

    title: str
    low: float
    high: float
    log: bool = False
    whole: bool = False  # only whole numbers mean something
    names: tuple[str, ...] = ()  # what stands at 0, 1, ... instead of numbers

    def place(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1; the middle where both are one."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Values to be marked, and what is written there."""
        if self.names:
            return [(place, _cut(name)) for place, name in enumerate(self.names)]
        values = (
            _powers(self.low, self.high) if self.log else _round_numbers(self.low, self.high, least=int(self.whole))
        )
        return [(value, f"{value:.4g}") for value in values]


@dataclass(frozen=True)
class Mark:
    """A value, and what is said of it."""

    x: float
    y: float
    kind: str  # class of the mark
    note: str


@dataclass(frozen=True)
class Line:
    """Values that belong together, in order."""

    points: tuple[tuple[float, float], ...]
    kind: str
    note: str = ""


def axis_over(title: str, values: Iterable[float], *, whole: bool = False) -> Axis:
    """An axis with a little room around `values`."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    room = 0.06 * (high - low) or max(abs(low) * 0.1, 1e-6)
    return Axis(title, low - room, high + room, whole=whole)


def plot(x: Axis, y: Axis, *, marks: Sequence[Mark], lines: Sequence[Line] = (), about: str, width: int = WIDTH) -> str:
    """A chart of lines under dots; `about` says in words what it shows."""
    inner, high = width - LEFT - RIGHT - 2 * EDGE, HEIGHT - TOP - BOTTOM - EDGE

    def at(values: tuple[float, float]) -> tuple[float, float]:
        return LEFT + EDGE + inner * x.place(values[0]), TOP + high * (1 - y.place(values[1]))

    parts = [_grid(x, y, at, width)]
    for line in lines:
        points = " ".join(f"{left:.1f},{top:.1f}" for left, top in map(at, line.points))
        parts.append(f'<polyline class="{line.kind}" points="{points}">{_title(line.note)}</polyline>')
    for mark in marks:
        left, top = at((mark.x, mark.y))
        parts.append(f'<circle class="{mark.kind}" cx="{left:.1f}" cy="{top:.1f}" r="5">{_title(mark.note)}</circle>')
    return _svg(width, HEIGHT, about, parts)


def bars(shares: Mapping[str, float], *, about: str) -> str:
    """One bar for each share of the whole, with its name before and its number behind it."""
    start, room = 200, WIDTH - 200 - 70
    parts = []
    for row, (name, share) in enumerate(shares.items()):
        top, length = row * BAR, room * share
        parts += [
            f'<text class="end" x="{start - 10}" y="{top + 17}">{escape(name)}</text>',
            f'<rect class="bar" x="{start}" y="{top + 4}" width="{max(length, 1):.1f}" height="{BAR - 8}" rx="3"/>',
            f'<text x="{start + length + 8:.1f}" y="{top + 17}">{share:.2f}</text>',
        ]
    return _svg(WIDTH, BAR * len(shares), about, parts)


def parallel(axes: Sequence[Axis], lines: Sequence[tuple[Sequence[float], float, str]], *, about: str) -> str:
    """One line through all axes for each (values, goodness 0 to 1, note); the better, the stronger it is drawn."""
    step, bottom = (WIDTH - 2 * LEFT) / max(1, len(axes) - 1), HEIGHT - BOTTOM
    parts = []
    for values, goodness, note in sorted(lines, key=lambda line: line[1]):
        places = (axis.place(value) for axis, value in zip(axes, values, strict=True))
        points = " ".join(
            f"{LEFT + step * number:.1f},{bottom - (bottom - TOP) * place:.1f}" for number, place in enumerate(places)
        )
        parts.append(f'<polyline class="way" style="--good:{goodness:.2f}" points="{points}">{_title(note)}</polyline>')
    for number, axis in enumerate(axes):
        left = LEFT + step * number
        parts.append(f'<line class="axis" x1="{left:.1f}" y1="{TOP}" x2="{left:.1f}" y2="{bottom}"/>')
        for value, text in axis.ticks():
            if -1e-9 <= axis.place(value) <= 1 + 1e-9:
                top = bottom - (bottom - TOP) * axis.place(value)
                parts.append(f'<text class="end on" x="{left - 6:.1f}" y="{top + 4:.1f}">{escape(text)}</text>')
        row = bottom + 20 + 16 * (number % 2)  # neighbours' names in two rows
        parts.append(f'<text class="middle" x="{left:.1f}" y="{row}">{escape(axis.title)}</text>')
    return _svg(WIDTH, HEIGHT, about, parts)


def _grid(x: Axis, y: Axis, at: Callable[[tuple[float, float]], tuple[float, float]], width: int) -> str:
    """Both axes with their numbers and names."""
    bottom, parts = HEIGHT - BOTTOM, []
    for value, text in y.ticks():
        if 0 <= y.place(value) <= 1:
            _, top = at((x.low, value))
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{top:.1f}" x2="{width - RIGHT}" y2="{top:.1f}"/>')
            parts.append(f'<text class="end" x="{LEFT - 8}" y="{top + 4:.1f}">{escape(text)}</text>')
    for value, text in x.ticks():
        if 0 <= x.place(value) <= 1:
            left, _ = at((value, y.low))
            parts.append(f'<text class="middle" x="{left:.1f}" y="{bottom + 18}">{escape(text)}</text>')
    middle = (LEFT + width - RIGHT) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{width - RIGHT}" y2="{bottom}"/>')
    parts.append(f'<text class="middle soft" x="{middle}" y="{HEIGHT - 6}">{escape(x.title)}</text>')
    parts.append(f'<text class="soft" x="{LEFT}" y="14">{escape(y.title)}</text>')
    return "".join(parts)


def _round_numbers(low: float, high: float, *, least: int) -> list[float]:
    """A few round numbers from low to high, at least `least` apart."""
    if high == low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / TICKS))
    step = next(power * factor for factor in STEPS if power * factor * TICKS >= high - low)
    step = max(math.ceil(step), least) if least else step
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Both ends, and powers of ten between them."""
    between = (10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    return sorted({low, high, *between})


def _svg(width: int, height: int, about: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'


def _title(note: str) -> str:
    return f"<title>{escape(note)}</title>" if note else ""


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"

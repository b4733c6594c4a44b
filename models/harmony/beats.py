"""Beats and downbeats from activations by dynamic programming (Ellis 2007), here for many tempi at once. No torch.

F frames, P tempi, K beats of a bar, n beats found. The beats that score best over all tempi are those of the clip.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

BEATS_PER_BAR = 4
"""K, of every song: a vocal alone hardly tells three from four."""
TEMPI_BPM = np.geomspace(56.0, 190.0, 62)
"""Tempi that are tried, 2 % apart; a clip has one."""
TYPICAL_BPM, TEMPO_OCTAVES = 108.0, 0.3
"""Prior of the tempo: the middle and the standard deviation of a bell over its logarithm."""
LOOSE_FRAMES, TIGHTNESS = 3, 300.0
"""Most by which the time between two beats differs from the tempo's; log-probability lost per squared log ratio."""
NEAR_FRAMES = 4
"""A beat lies in the middle of the log-odds so many frames around it."""
SMOOTHED_BEATS, SMOOTHED_DEVIATION = 8, 4.0
"""Beats on either side through which a line is laid to place a beat; the bell by which near ones count more."""


@dataclass(frozen=True)
class BeatTrack:
    """The beats of a clip."""

    seconds: np.ndarray
    """Float64 [n]."""
    places: np.ndarray
    """Beat of the bar, 0 for a downbeat, int [n]."""
    confidence: float
    """Mean activation of the beats."""

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def downbeats(self) -> np.ndarray:
        """Seconds."""
        return self.seconds[self.places == 0]

    def edges(self, parts: int = 1) -> np.ndarray:
        """Seconds that part each beat evenly, [parts * n + 1], of two beats or more.

        The first is 0: what comes before the first beat counts with it.
        """
        beats = np.append(self.seconds, 2 * self.seconds[-1] - self.seconds[-2])
        edges = np.interp(np.arange(parts * len(self) + 1) / parts, np.arange(len(beats)), beats)
        return np.append(0.0, edges[1:])

    @property
    def bpm(self) -> float:
        """Tempo over the whole clip; of two beats or more."""
        return float(60.0 / np.median(np.diff(self.seconds)))


def track_beats(beat: np.ndarray, downbeat: np.ndarray, rate_hz: float) -> BeatTrack:
    """The likeliest beats for log-odds of a beat [F] and, where there is one, of a downbeat [F], at rate_hz.

    The first lies less than a beat after the start, the last less than one before the end.
    """
    frames, places = _likeliest_beats(beat, downbeat, 60 * rate_hz / TEMPI_BPM)
    return BeatTrack(_on_lines(frames, beat) / rate_hz, places, float(expit(beat[frames]).mean()))


def _likeliest_beats(beat: np.ndarray, downbeat: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the beats and their places in the bar."""
    frames, each = len(beat), np.arange(len(periods))[:, None]
    intervals = np.rint(periods).astype(int)[:, None] + np.arange(-LOOSE_FRAMES, LOOSE_FRAMES + 1)
    cost = TIGHTNESS * np.log(intervals / periods[:, None]) ** 2
    opening = -0.5 * (np.log2(TEMPI_BPM / TYPICAL_BPM) / TEMPO_OCTAVES) ** 2
    no_beat = np.concatenate([[0.0], np.cumsum(log_expit(-beat))])  # over the frames before each
    here = log_expit(beat)[:, None] + np.stack([log_expit(downbeat)] + [log_expit(-downbeat)] * (BEATS_PER_BAR - 1), 1)
    longest = int(intervals.max())
    scores = np.full((longest + frames, len(periods), BEATS_PER_BAR), -np.inf)  # row longest + t: a beat at frame t
    since = np.zeros((frames, len(periods), BEATS_PER_BAR), dtype=int)  # frames from the beat before
    for t in range(frames):
        between = no_beat[t] - no_beat[np.maximum(t - intervals + 1, 0)] - cost
        follows = np.roll(scores[longest + t - intervals, each], 1, axis=2) + between[:, :, None]
        best = follows.argmax(axis=1)
        since[t] = intervals[each, best]
        begins = np.where(t < periods, opening + no_beat[t], -np.inf)[:, None]
        scores[longest + t] = np.maximum(follows.max(axis=1), begins) + here[t]
        since[t][begins >= follows.max(axis=1)] = frames
    totals = scores[longest:] + (no_beat[frames] - no_beat[1:])[:, None, None]
    totals[np.arange(frames)[:, None] + periods < frames] = -np.inf
    return _traced(totals, since)


def _traced(totals: np.ndarray, since: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and places of the path whose score over the whole clip, [F, P, K], is the best."""
    t, period, place = (int(index) for index in np.unravel_index(int(np.argmax(totals)), totals.shape))
    path = []
    while t >= 0:
        path.append((t, place))
        t, place = t - int(since[t, period, place]), (place - 1) % BEATS_PER_BAR
    frames, places = np.array(path[::-1]).T
    return frames, places


def _on_lines(frames: np.ndarray, beat: np.ndarray) -> np.ndarray:
    """Each beat on the line through those around it, in frames and parts of them; the surer ones count more."""
    near = np.clip(frames[:, None] + np.arange(-NEAR_FRAMES, NEAR_FRAMES + 1), 0, len(beat) - 1)
    weights = beat[near] - beat.min() + 1e-9
    middles, sureness = np.average(near, axis=1, weights=weights), weights.sum(axis=1)
    placed = np.empty(len(frames))
    for number in range(len(frames)):
        around = np.arange(max(0, number - SMOOTHED_BEATS), min(len(frames), number + SMOOTHED_BEATS + 1))
        apart = around - number
        counts = np.sqrt(sureness[around]) * np.exp(-((apart / SMOOTHED_DEVIATION) ** 2) / 4)  # squared by polyfit
        placed[number] = np.polyval(np.polyfit(apart, middles[around], min(1, len(around) - 1), w=counts), 0)
    return placed

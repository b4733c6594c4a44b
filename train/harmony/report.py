"""What a harmoniser makes of songs that it did not learn from, beside what knows less.

B songs, L half beats of each. All of it on the beats that the rules find, as at inference.
"""

from collections.abc import Sequence

import mir_eval
import numpy as np
import torch

from common.config import Config
from models.harmony.beats import BeatTrack
from models.harmony.chords import KEYS, NO_CHORD
from models.harmony.half_beats import PARTS, half_beats
from models.harmony.harmoniser import Harmoniser
from models.harmony.network import HarmonyNetwork
from models.harmony.trained import TrainedHarmoniser
from train.harmony.examples import KEY_WEIGHT, UNKNOWN, HarmonyLabels, harmony_losses, labels_at
from train.harmony.songs import SungSong


class HarmonyScore(Config):
    """How well chords and keys of held-out songs are told; shares lie in [0, 1]."""

    chord_log_likelihood: float | None = None
    """Mean over half beats of the log-probability of the true triad, in nats; null where none is said."""
    key_log_likelihood: float | None = None
    """The same of the keys, over songs."""
    chords: float
    """Share of half beats with the true triad."""
    signature: float | None
    """Share of songs with the true key signature; null where no sheet names a key."""
    key: float | None
    """Share of songs with the true key; likewise."""


class BeatScore(Config):
    """How well the rules find the beats, which no training changes."""

    beats: float
    """Mean F-measure within 70 ms against the sheets' beats."""
    tempo: float
    """Share of songs whose tempo is right within 4 %."""


def score_of_network(network: HarmonyNetwork, songs: Sequence[SungSong]) -> HarmonyScore:
    """A network's, decoded as at inference."""
    with torch.no_grad():
        entropy = harmony_losses(network, [song.example() for song in songs])
    named = [_named(TrainedHarmoniser(network), song) for song in songs]
    return _score(songs, named, -entropy["chords"].item(), -entropy["key"].item() / KEY_WEIGHT)


def score_of_rules(songs: Sequence[SungSong]) -> HarmonyScore:
    """The rules', which learn nothing."""
    return _score(songs, [_named(Harmoniser(), song) for song in songs])


def score_of_key_alone(training: Sequence[SungSong], songs: Sequence[SungSong]) -> HarmonyScore:
    """That of who knows the scale that is sung and how common each triad and key above it is in the training songs."""
    seen, true = ([song.example() for song in side] for side in (training, songs))
    chords = _frequencies(np.concatenate([one.chords for one in seen]), NO_CHORD)
    keys = _frequencies(np.array([one.key for one in seen]), KEYS)
    named = []
    for song, one in zip(songs, true, strict=True):
        above = half_beats(song.features, song.found).signature
        triads = np.resize(labels_at(int(chords.argmax()), above), len(one.chords))
        named.append(HarmonyLabels(triads, int(labels_at(int(keys.argmax()), above))))
    told = np.concatenate([one.chords for one in true])
    return _score(songs, named, _mean_log(chords, told), _mean_log(keys, np.array([one.key for one in true])))


def score_of_chance(network: HarmonyNetwork, songs: Sequence[SungSong]) -> HarmonyScore:
    """That of what a network says of the song before; as likely is each triad, and each key."""
    named = [_named(TrainedHarmoniser(network), song) for song in songs]
    others = [
        HarmonyLabels(np.resize(other.chords, len(own.chords)), other.key)
        for own, other in zip(named, [named[-1], *named[:-1]], strict=True)
    ]
    return _score(songs, others, -float(np.log(NO_CHORD)), -float(np.log(KEYS)))


def score_of_beats(songs: Sequence[SungSong]) -> BeatScore:
    """Of the beats that the rules find."""
    pairs = [(song.sheet, song.found) for song in songs]
    fits = [mir_eval.beat.f_measure(_within(sheet.beat_times(), found), found.seconds) for sheet, found in pairs]
    right = [sheet.bpm is not None and abs(found.bpm / sheet.bpm - 1) <= 0.04 for sheet, found in pairs]
    return BeatScore(beats=_rounded(np.mean(fits)), tempo=_rounded(np.mean(right)))


def _within(times: np.ndarray, found: BeatTrack) -> np.ndarray:
    """Beats of a sheet from a beat before those that are found to a beat behind them."""
    beat = 60.0 / found.bpm
    return times[(times >= max(found.seconds[0] - beat, 0.0)) & (times <= found.seconds[-1] + beat)]


def _named(harmoniser: Harmoniser, song: SungSong) -> HarmonyLabels:
    track = harmoniser.chords(song.features, song.found)
    return HarmonyLabels(np.repeat(track.numbers, PARTS), track.key)


def _score(
    songs: Sequence[SungSong], named: Sequence[HarmonyLabels], chords: float | None = None, keys: float | None = None
) -> HarmonyScore:
    right, signatures, tonics = list[np.ndarray](), list[bool](), list[bool]()
    for song, said in zip(songs, named, strict=True):
        true = song.truth(song.found)
        right.append((said.chords == true.chords)[true.chords != UNKNOWN])
        if true.key != UNKNOWN:
            signatures.append(_signature(said.key) == _signature(true.key))
            tonics.append(said.key == true.key)
    return HarmonyScore(
        chord_log_likelihood=None if chords is None else _rounded(chords),
        key_log_likelihood=None if keys is None or not tonics else _rounded(keys),
        chords=_rounded(np.mean(np.concatenate(right))),
        signature=_rounded(np.mean(signatures)) if signatures else None,
        key=_rounded(np.mean(tonics)) if tonics else None,
    )


def _signature(key: int) -> int:
    """Tonic of the major key with the same notes."""
    return key if key < 12 else (key + 3) % 12


def _frequencies(labels: np.ndarray, count: int) -> np.ndarray:
    """Share of each of so many labels, each counted once more than it is there."""
    seen = np.bincount(labels[labels != UNKNOWN], minlength=count) + 1.0
    return seen / seen.sum()


def _mean_log(shares: np.ndarray, labels: np.ndarray) -> float:
    known = labels[labels != UNKNOWN]
    return float(np.log(shares[known]).mean()) if len(known) else 0.0


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)

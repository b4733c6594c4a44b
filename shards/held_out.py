"""Which songs of shards a training keeps for validation: a pure function of their names."""

import hashlib
from collections.abc import Sequence

FEWEST_VALIDATION_SONGS = 2
"""Exchanging vocals between songs takes two."""


def validation_songs(songs: Sequence[str], fraction: float) -> frozenset[str]:
    """Songs kept for validation: those whose hash falls below `fraction`, at least two, always leaving one to train.

    A song's side does not depend on the other songs, except for that minimum. Empty if `fraction` is 0 or fewer than
    three songs are given.
    """
    ranked = sorted(set(songs), key=_unit_hash)
    if fraction == 0 or len(ranked) <= FEWEST_VALIDATION_SONGS:
        return frozenset()
    below = sum(_unit_hash(song) < fraction for song in ranked)
    return frozenset(ranked[: min(max(below, FEWEST_VALIDATION_SONGS), len(ranked) - 1)])


def _unit_hash(song: str) -> float:
    """A number in [0, 1) that depends on the song's name only."""
    return int.from_bytes(hashlib.sha256(song.encode()).digest()[:8], "big") / 2**64

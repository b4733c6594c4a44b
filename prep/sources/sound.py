"""The hash over a song's decoded sound, taken as its files are decoded for the networks: none is decoded twice."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.audio.decode import AudioStream
from common.canonical import sha256_of
from prep.sources.scan import SongFiles


class SoundHash:
    """Of the file of a song's mix, of those of its stems where it has none."""

    def __init__(self, song: SongFiles) -> None:
        parts = ("mix",) if "mix" in song.files else ("inst", "vocal")
        self._semitones = song.semitones
        self._digests: dict[Path, str | None] = {path: None for part, path in song.sources if part in parts}

    def hashed(self, path: Path, stream: AudioStream) -> AudioStream:
        """The stream of a file, which is hashed as its blocks go by."""
        return replace(stream, blocks=self._hashed(path, stream)) if path in self._digests else stream

    def hexdigest(self) -> str:
        """SHA-256, in hex, once all has been decoded to its end."""
        digests = list(self._digests.values())
        assert None not in digests, "a file was not decoded to its end"
        return sha256_of([*digests, self._semitones] if self._semitones else digests)

    def _hashed(self, path: Path, stream: AudioStream) -> Iterator[np.ndarray]:
        digest = hashlib.sha256(f"{stream.rate_hz} Hz, {stream.channels} channels".encode())
        for block in stream.blocks:
            digest.update(block.T.tobytes())  # sample by sample, so that it matters not where blocks end
            yield block
        self._digests[path] = digest.hexdigest()

"""What stands beside the systems: the true band, the same through the codec, and a good band of the wrong song."""

from collections.abc import Sequence

from infer.band.session import Session
from infer.benchmark.excerpts import Excerpt
from infer.benchmark.systems import BenchmarkSystem
from infer.evaluate.evaluate import RoundTrip, as_long_as, read_clip
from infer.evaluate.measures.clip import Clip
from infer.request.request import Runtime
from models.loading.checkpoint import part_hash


class TrueBands(BenchmarkSystem):
    """The band that the vocal was sung to."""

    name = "true"

    def __init__(self) -> None:
        self.about = {}

    def heard(self, excerpt: Excerpt) -> list[str]:
        return [excerpt.note.true_sha256]

    def bands(self, excerpt: Excerpt) -> tuple[Clip, ...]:
        return (read_clip(excerpt.true),)


class CodecBands(BenchmarkSystem):
    """The true band through the codec and back: the most that a model can reach which writes its latents."""

    name = "codec"

    def __init__(self, runtime: Runtime, session: Session) -> None:
        parts = dict.fromkeys([runtime.spec.parts.codec, *runtime.spec.parts.decoders])
        self.about = {part: part_hash(runtime.base, part) for part in parts}
        self._runtime, self._session = runtime, session

    def heard(self, excerpt: Excerpt) -> list[str]:
        return [*self.about.values(), excerpt.note.true_sha256]

    def bands(self, excerpt: Excerpt) -> tuple[Clip, ...]:
        trip = RoundTrip(self._session.codec_encoder(self._runtime), self._session.decoder(self._runtime))
        return (trip(read_clip(excerpt.true)),)


class ShuffledBands(BenchmarkSystem):
    """The null: the true band of the song behind, round about, as if it had been made for this vocal."""

    name = "shuffled"

    def __init__(self, excerpts: Sequence[Excerpt]) -> None:
        self.about = {}
        by_song: dict[str, list[Excerpt]] = {}
        for excerpt in excerpts:
            by_song.setdefault(excerpt.note.song, []).append(excerpt)
        songs = list(by_song.values())
        following = zip(songs, [*songs[1:], songs[0]], strict=True)
        self._other = {
            excerpt.key: others[number % len(others)] for own, others in following for number, excerpt in enumerate(own)
        }

    def heard(self, excerpt: Excerpt) -> list[str]:
        return [self._other[excerpt.key].note.true_sha256]

    def bands(self, excerpt: Excerpt) -> tuple[Clip, ...]:
        vocal = read_clip(excerpt.vocal)
        return (Clip(as_long_as(vocal.wave, read_clip(self._other[excerpt.key].true).wave)),)

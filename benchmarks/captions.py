"""How often the tags of `prep caption` are said, and how often they are right, beside chance (docs/captions.md).

python -m benchmarks.captions --songs 48 --seconds 30 --seed 900000
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.music.chord import Key
from common.music.measured_tags import tags_from
from common.music.measures import SAME_TEMPO, same_but_octaves
from prep.captions.caption import measure_song
from prep.made_up.folder import make_songs
from prep.made_up.truth import SongTruth
from prep.sources.scan import scan


@dataclass(frozen=True)
class TaggedSong:
    """A made-up song, and the tags that were measured."""

    truth: SongTruth
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A kind of tag, and when one is right."""

    name: str
    asked: Callable[[str], bool]
    right: Callable[[str, SongTruth], bool]


@dataclass(frozen=True)
class Score:
    """Of one kind of tag."""

    said: int
    right: float
    """Share of those said."""
    null: float
    """The same where each song has the truth of another, over all pairs."""


def _is_key(tag: str) -> bool:
    return tag.endswith((" major", " minor"))


def _bpm(tag: str) -> float:
    return float(tag.removesuffix(" bpm"))


def _is_tempo(tag: str) -> bool:
    return tag.endswith(" bpm")


def _either(yes: str, no: str, truly: Callable[[SongTruth], bool]) -> Question:
    """Of a tag and its opposite."""
    return Question(f"{yes}, {no}", lambda tag: tag in (yes, no), lambda tag, truth: (tag == yes) == truly(truth))


QUESTIONS = (
    Question("tempo", _is_tempo, lambda tag, truth: abs(_bpm(tag) / truth.tempo_bpm - 1) <= SAME_TEMPO),
    Question("tempo, or an octave apart", _is_tempo, lambda tag, truth: same_but_octaves(_bpm(tag), truth.tempo_bpm)),
    Question("key and mode", _is_key, lambda tag, truth: Key.of_name(tag) == Key.of_name(truth.full_key)),
    Question("tonic", _is_key, lambda tag, truth: Key.of_name(tag).tonic == Key.of_name(truth.full_key).tonic),
    Question("mode", _is_key, lambda tag, truth: tag.endswith(truth.mode)),
    Question("drums", lambda tag: tag == "drums", lambda tag, truth: "drums" in truth.instruments),
    _either("bass", "no bass", lambda truth: "bass" in truth.instruments),
    _either("busy", "sparse", lambda truth: truth.energy == "energetic"),
    _either("high vocal", "low vocal", lambda truth: truth.singer == "female"),
)


def score(question: Question, songs: Sequence[TaggedSong]) -> Score:
    """How a kind of tag does over these songs."""
    said = [(at, tag) for at, song in enumerate(songs) for tag in song.tags if question.asked(tag)]
    right = [question.right(tag, songs[at].truth) for at, tag in said]
    null = [question.right(tag, other.truth) for at, tag in said for place, other in enumerate(songs) if place != at]
    return Score(len(said), _share(right), _share(null))


def _share(values: Iterable[bool]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def table(songs: Sequence[TaggedSong]) -> str:
    """A line for each kind of tag, as docs/captions.md has it."""
    lines = ["| tag | said | right | shuffled |", "| --- | --- | --- | --- |"]
    for question in QUESTIONS:
        found = score(question, songs)
        lines.append(f"| {question.name} | {found.said} of {len(songs)} | {found.right:.0%} | {found.null:.0%} |")
    return "\n".join(lines)


def tagged_songs(folder: Path, *, songs: int, seconds: float, seed: int, full: bool) -> list[TaggedSong]:
    """Songs made in `folder`, with stems or as mixes alone, and their tags."""
    make_songs(folder, songs=songs, seconds=seconds, seed=seed, form="songs" if full else "stems")
    return [
        TaggedSong(
            SongTruth.model_validate_json((folder / f"{song.key}_truth.json").read_text(encoding="utf-8")),
            tags_from(measure_song(song)),
        )
        for song in scan(folder).songs
    ]


def main() -> None:
    """Make songs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=900_000)
    parser.add_argument("--full", action="store_true", help="mixes alone, without stems")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(
            table(
                tagged_songs(Path(folder), songs=asked.songs, seconds=asked.seconds, seed=asked.seed, full=asked.full)
            )
        )


if __name__ == "__main__":
    main()

"""KEY_prompt.txt for the songs of a folder that have none: measured, tagged, written; what is there is left alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.files import whole_file
from common.music.measured_tags import SongMeasures, tags_from
from common.music.measures import RATE_HZ, find_band_sound, find_key, find_register, find_tempo, onset_strength
from common.progress import progress
from common.texts.tags import spelt
from prep.captions.waves import difference, read_mono, summed
from prep.sources.scan import SongFiles, scan

Outcome = Literal["written", "to write", "as it was", "has one", "unsure", "unreadable"]
SAID: dict[Outcome, str] = {
    "written": "prompts written",
    "to write": "prompts to write",
    "as it was": "as they were",
    "has one": "songs that have one",
    "unsure": "of which nothing is sure",
    "unreadable": "that cannot be read",
}
MOST_SECONDS = 240
"""So much of a song is measured, from its start."""


@dataclass(frozen=True)
class Caption:
    """A song's prompt, or why it gets none."""

    key: str
    outcome: Outcome
    file: str
    """Of the prompt."""
    tags: tuple[str, ...] = ()
    measures: SongMeasures | None = None
    detail: str = ""
    """Why the song cannot be read."""


def caption_songs(raw: Path, *, overwrite: bool = False, dry_run: bool = False) -> list[Caption]:
    """Write the prompts that are missing below `raw`, all of them with `overwrite`, none with `dry_run`.

    A song that cannot be read is a row, and loses no other. Raises UserError where there are no songs, and where the
    disk refuses a prompt.
    """
    songs = scan(raw).songs
    captions = []
    with progress(len(songs), "caption", "songs") as done:
        for song in songs:
            captions.append(_caption(song, raw, overwrite=overwrite, dry_run=dry_run))
            done.update(note=song.key)
    return captions


def _caption(song: SongFiles, raw: Path, *, overwrite: bool, dry_run: bool) -> Caption:
    path = prompt_file(song)
    file = path.relative_to(raw).as_posix()
    if path.exists() and not overwrite:
        return Caption(song.key, "has one", file)
    try:
        measures = measure_song(song)
    except UserError as error:
        return Caption(song.key, "unreadable", file, detail=str(error))
    tags = tags_from(measures)
    if not tags:
        return Caption(song.key, "unsure", file, measures=measures)
    content = f"{spelt(tags)}\n"
    if path.exists() and path.read_bytes() == content.encode():
        return Caption(song.key, "as it was", file, tags, measures)
    if not dry_run:
        with whole_file(path) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")
    return Caption(song.key, "to write" if dry_run else "written", file, tags, measures)


def prompt_file(song: SongFiles) -> Path:
    """Where a song's prompt is, or belongs."""
    assert song.beside is not None, "a scanned song has a place"
    return song.texts.get("prompt") or song.beside.with_name(f"{song.beside.name}_prompt.txt")


def measure_song(song: SongFiles) -> SongMeasures:
    """Measures of a song: of its band where stems tell it, else of its mix.

    Raises UserError for a file that cannot be read.
    """
    waves = {
        part: summed(read_mono(path, RATE_HZ, most_seconds=MOST_SECONDS) for at, path in song.sources if at == part)
        for part in song.files
    }
    vocal = waves.get("vocal")
    band = waves["inst"] if "inst" in waves else waves["mix"] if vocal is None else difference(waves["mix"], vocal)
    whole = waves["mix"] if "mix" in waves else summed([band, vocal] if vocal is not None else [band])
    strength = onset_strength(band)
    return SongMeasures(
        is_mix=song.is_full,
        tempo=find_tempo(strength),
        key=find_key(whole),
        sound=find_band_sound(band, strength),
        register=None if vocal is None else find_register(vocal),
    )


def described(captions: Sequence[Caption]) -> str:
    """A line for each song that was measured, and one that counts all."""
    lines = [
        f"{caption.key}: {_line(caption)}" for caption in captions if caption.outcome not in ("has one", "as it was")
    ]
    counts = Counter(caption.outcome for caption in captions)
    total = ", ".join(f"{counts[outcome]} {said}" for outcome, said in SAID.items() if counts[outcome])
    return "\n".join([*lines, total])


def _line(caption: Caption) -> str:
    return spelt(caption.tags) if caption.tags else caption.detail or "nothing is sure"


def rows(captions: Sequence[Caption]) -> list[dict[str, Any]]:
    """The same as plain JSON values, with all that was measured."""
    return [asdict(caption) for caption in captions]

"""Songs at another pitch: songs of their own beside those that they are made of, with words and sheets shifted."""

from collections.abc import Sequence
from dataclasses import replace

from common.errors import UserError
from common.music.chord import Key
from common.texts.tags import spelt, tags_of
from prep.sources.scan import Scan, SongFiles, safe_key

MODES = ("major", "minor")
KEY_WORDS = ("key of ", "in ", "key: ")
"""What may stand before a key in a tag."""


def with_shifted(found: Scan, semitones: Sequence[int]) -> Scan:
    """A folder's songs, and each again at so many semitones higher. 0 is the song itself and adds none.

    Raises UserError where a song is called as one of these would be.
    """
    steps = sorted(set(semitones) - {0})
    if not steps:
        return found
    added = [shifted(song, step) for song in found.songs for step in steps]
    taken = {song.key for song in (*found.songs, *found.rejections)}
    for song in added:
        if song.key in taken:
            raise UserError(f"{song.name}: a song is called as {song.parent} shifted would be. Rename it.")
    return replace(found, songs=tuple(sorted((*found.songs, *added), key=lambda song: song.key)))


def shifted(song: SongFiles, semitones: int) -> SongFiles:
    """A song that is read of the same files and brought to another pitch after that."""
    suffix = f"_{'up' if semitones > 0 else 'down'}{abs(semitones)}"
    return replace(
        song,
        key=safe_key(f"{song.key}{suffix}"),
        name=f"{song.name}{suffix}",
        prompt=shifted_prompt(song.prompt, semitones),
        lead_sheet=None if song.lead_sheet is None else song.lead_sheet.shifted(semitones),
        parent=song.key,
        semitones=semitones,
    )


def shifted_prompt(prompt: str, semitones: int) -> str:
    """A prompt with the keys that its tags name so many semitones higher: "A minor", "key of Bb major", "in F# minor".

    A key without its mode ("Am", "C") stays: it may be another word.
    """
    tags = tags_of(prompt)
    moved = [_shifted_tag(tag, semitones) for tag in tags]
    return prompt if moved == tags else spelt(moved)


def _shifted_tag(tag: str, semitones: int) -> str:
    if not tag.lower().endswith(MODES):
        return tag
    start = next((word for word in KEY_WORDS if tag.lower().startswith(word)), "")
    name = tag[len(start) :]
    try:
        key = Key.of_name(f"{name[:-5]}{name[-5:].lower()}")
    except UserError:
        return tag  # such as "sad minor"
    return f"{tag[: len(start)]}{key.shifted(semitones).name}"

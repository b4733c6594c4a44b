"""How the files of a song are called: KEY_vocal, KEY_inst, KEY_mix or KEY itself, and its texts beside it."""

import re
import unicodedata
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

VOCAL, INST, MIX = "vocal", "inst", "mix"
NO_VOCAL = r"no[ _-]?vocals?"
PART_NAME = re.compile(
    rf"(?P<song>.+?)(?:[_-](?:(?P<vocal>vocals?|vox)|(?P<inst>{NO_VOCAL}|inst|instrumental|accompaniment))|_(?P<mix>mix))"
    r"\s*",
    re.DOTALL | re.IGNORECASE,
)
SEPARATED = re.compile(
    r"(?:(?P<count>\d+)_)?(?P<song>.+)_\((?:(?P<vocal>vocals)|(?P<inst>instrumental))\)(?:_.+)?", re.IGNORECASE
)
"""As Ultimate Vocal Remover writes them, 1_ballad_(Vocals), and audio-separator, ballad_(Vocals)_MODEL."""
LIKE_VOCAL = r"vocals?|vox|voice|a[ _-]?cap+ella|ボーカル|ヴォーカル|アカペラ"
LIKE_INST = (
    rf"{NO_VOCAL}|off[ _-]vocal|inst(?:r|rumentals?)?|accompaniment|karaoke"
    r"|オフ[ _-]?[ボヴ]ォ?ーカル|インスト(?:ゥルメンタル|ルメンタル)?|カラオケ|伴奏"
)
LIKE_OTHER = r"(?:no[ _-])?(?:drums?|bass|other|guitars?|piano|keys|synths?|strings|percussion)|backing[ _-]vocals?"
WORD = rf"(?:(?P<vocal>{LIKE_VOCAL})|(?P<inst>{LIKE_INST})|(?P<mix>mix(?:ture)?)|(?P<other>{LIKE_OTHER}))"
BARE = re.compile(rf"{WORD}\s*", re.IGNORECASE)
LIKE_PART = re.compile(
    rf"(?P<song>.+?)(?P<between>[\s_.-]*)(?:[(\[（［【]\s*|(?<=[\s_.-])){WORD}\s*[)\]）］】]?\s*",
    re.DOTALL | re.IGNORECASE,
)
CERTAIN = re.compile(r"vocals|no[ _-].*", re.IGNORECASE)
"""Names that no song has."""
DRUMS_BASS_OTHER = {"drums", "bass", "other"}
TEXT_NAME = re.compile(r"(?:(?P<title>.+)_)?(?P<kind>prompt|lyrics|lead_sheet)\.txt", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """What a file's name says."""

    song: str
    part: str | None  # VOCAL, INST, MIX; None for a stem of another kind
    word: str = ""  # that says so, in lower case
    is_title: bool = False  # the word may be the title behind an artist's name


def one_form(name: str) -> str:
    """A name in composed form (NFC), which some systems give and others decompose."""
    return unicodedata.normalize("NFC", name)


def split_name(stem: str, beside: AbstractSet[str] = frozenset()) -> Named:
    """Song and part of a file's name: "ballad_vocal" is the vocal of ballad, "ballad" its mix.

    `beside` are the stems of other files, by which a number that is part of the title is told from a counter.
    """
    if match := SEPARATED.fullmatch(stem):
        whole = f"{match['count']}_{match['song']}"
        return Named(whole if whole in beside else match["song"], VOCAL if match["vocal"] else INST)
    if match := PART_NAME.fullmatch(stem):
        return Named(match["song"], next(part for part in (VOCAL, INST, MIX) if match[part]))
    return Named(stem, MIX)


def stems_not_so_named(stems: Iterable[str], *, below: bool) -> dict[str, Named]:
    """The names in a folder that look like stems and are not read as any, with the song and part that they may be.

    A word such as "bass" also ends titles: there must be other files of the same song. `below`: this is a folder of one
    song, perhaps, not the one that holds all.
    """
    whole = {stem: split_name(stem) for stem in stems}
    bare = {stem: _named("", match) for stem in whole if (match := BARE.fullmatch(one_form(stem)))}
    found = bare if _is_a_songs_folder(bare, len(whole), below=below) else {}
    like = {
        stem: _named(match["song"], match)
        for stem, named in whole.items()
        if named == Named(stem, MIX) and stem not in found and (match := LIKE_PART.fullmatch(one_form(stem)))
    }
    songs: dict[str, list[str]] = {}
    for stem, named in whole.items():
        songs.setdefault(_same(like[stem].song if stem in like else named.song), []).append(stem)
    for stem, named in like.items():
        files = songs[_same(named.song)]
        certain = not named.is_title or any(file not in like or like[file].part for file in files)
        if len(files) > 1 and certain:
            found[stem] = named
    return found


def stems_of_folder(stems: Iterable[str], title: str) -> dict[str, Named]:
    """What each name in a folder is, where the folder is one song: vocals, no_vocals; vocals, drums, bass, other.

    A file called like the folder, `title`, is the mix. Nothing where some file is neither: other songs may lie there.
    """
    names = {stem: BARE.fullmatch(one_form(stem)) for stem in stems}
    bare = {stem: _named(title, match) for stem, match in names.items() if match}
    mixes = {stem: Named(title, MIX) for stem in names.keys() - bare.keys() if _same(stem) == _same(title)}
    found = bare | mixes
    return found if len(found) == len(names) and _is_a_songs_folder(found, len(found), below=True) else {}


def part_named(name: str) -> str | None:
    """The part (VOCAL, INST, MIX) that a folder's name, such as "vocals", says its files are; None for other names."""
    match = BARE.fullmatch(one_form(name))
    return None if match is None else _named("", match).part


def title_in_part(stem: str, part: str) -> str | None:
    """The song of a file in a folder for one part: "ballad", "ballad_vocal", "ballad (Vocals)"; None for another's."""
    named = split_name(stem)
    if named == Named(stem, MIX) and (match := LIKE_PART.fullmatch(one_form(stem))):
        like = _named(match["song"], match)
        named = like if like.part == part and not like.is_title else named
    return named.song if named.part == part or named == Named(stem, MIX) else None


def _is_a_songs_folder(bare: dict[str, Named], files: int, *, below: bool) -> bool:
    """Whether a folder of so many files is one song's: by a name that no song has, or by names that make a song."""
    words, parts = {named.word for named in bare.values()}, {named.part for named in bare.values()}
    certain = any(map(CERTAIN.fullmatch, words)) and (below or len(bare) > 1)
    makes_one = len(bare) == files and VOCAL in parts and bool(parts & {INST, MIX})
    return certain or makes_one or words >= DRUMS_BASS_OTHER


def _named(song: str, match: re.Match[str]) -> Named:
    part = next((part for part in (VOCAL, INST, MIX) if match[part]), None)
    between = match.groupdict().get("between") or ""
    return Named(song, part, (match["other"] or match[part or "other"]).lower(), is_title=between == " - ")


def _same(song: str) -> str:
    return one_form(song).casefold().strip(" _.-")


def song_of_vocal(file: Path) -> str:
    """The song of a file that is known to be a vocal, whatever it is called."""
    named = split_name(file.stem)
    return named.song if named.part == VOCAL else file.stem


def text_named(name: str) -> tuple[str, str] | None:
    """Song, in one form, and kind (prompt, lyrics, lead_sheet) of a text's file name, in upper or lower case.

    The song is "" where the name says the kind alone, as in a folder that is one song.
    """
    match = TEXT_NAME.fullmatch(name)
    return None if match is None else (one_form(match["title"] or ""), match["kind"].lower())


def chosen_text(paths: Iterable[Path], title: str, kind: str) -> Path | None:
    """Of the files that can be a song's text, that of the very name, else the only one.

    Raises UserError for several.
    """
    paths = sorted(paths)
    exact = [path for path in paths if path.name == f"{title}_{kind}.txt"]
    if not exact and len(paths) > 1:
        raise UserError(
            f"{' and '.join(path.name for path in paths)} are both the {kind.replace('_', ' ')} of {title}. Keep one."
        )
    return (exact or paths or [None])[0]


def text_beside(file: Path, title: str, kind: str) -> Path | None:
    """The text of a song in the folder of `file`; None where there is none. UserError for several."""
    wanted, folder = (one_form(title), kind), file.parent
    paths = folder.iterdir() if folder.is_dir() else ()
    return chosen_text((path for path in paths if text_named(path.name) == wanted), title, kind)

"""Which audio files are which part of which song, by their names and by the folders that other programs leave."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.texts.naming import (
    INST,
    MIX,
    VOCAL,
    Named,
    one_form,
    part_named,
    split_name,
    stems_not_so_named,
    stems_of_folder,
    title_in_part,
)
from shards.rejection import SongError
from shards.schema import Part

PARTS: dict[str | None, Part] = {VOCAL: "vocal", INST: "inst", MIX: "mix"}
BAND = frozenset({"drum", "bass", "other"})
"""Stems, in the singular, that a band needs to be whole when it is summed: any separator of four stems leaves them."""
SEPARATED_FOLDER = "separated"
"""Demucs writes separated/MODEL/SONG/vocals.wav."""


@dataclass
class SongStems:
    """The files that are one song's."""

    beside: Path
    """Folder and title: the song's texts are `beside`_prompt.txt and so on."""
    parts: dict[Part, list[Path]] = field(default_factory=lambda: defaultdict(list))
    others: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Stems of other kinds in a folder that is the song, by their name in the singular."""
    places: set[str] = field(default_factory=set)
    """Names under which a text may be the song's too."""

    def resolve(self, name: str) -> "ResolvedStems":
        """One file, or the stems to sum, for each part. Raises SongError where that is not clear."""
        for part, paths in [*self.parts.items(), *self.others.items()]:
            if len(paths) > 1:
                names = " and ".join(_told_apart(paths))
                raise SongError("ambiguous", f"{names} are both the {part} of {name}. Keep one.")
        files = {part: paths[0] for part, paths in self.parts.items()}
        others = {word: paths[0] for word, paths in self.others.items()}
        band = {word: path for word, path in others.items() if not word.startswith("no ")}
        whole = band.keys() >= BAND and not any("vocal" in word for word in band)
        if "inst" in files or not band or (not whole and files.keys() >= {"vocal", "mix"}):
            return ResolvedStems(files, (), tuple(others.values()))
        if not whole:
            given = ", ".join(path.name for path in band.values())
            need = "drums, bass and other and no second vocal; else add the inst, or vocal and mix"
            raise SongError("ambiguous", f"{given}: not clear whether that is all of {name}'s band. It needs {need}.")
        first, *rest = (path for _, path in sorted(band.items()))
        unused = tuple(path for word, path in others.items() if word not in band)
        return ResolvedStems({**files, "inst": first}, tuple(rest), unused)


@dataclass(frozen=True)
class ResolvedStems:
    """A song's files, each with its part."""

    files: Mapping[Part, Path]
    added: tuple[Path, ...]
    """Files that are added to that of the inst."""
    unused: tuple[Path, ...]
    """Stems that say nothing that the others do not."""


@dataclass(frozen=True)
class FolderLayout:
    """The songs of a folder, by their names below it."""

    songs: Mapping[str, SongStems]
    strange: Mapping[Path, SongError]
    """Files that look like stems and are not read as any, each with what would be right."""
    lone: tuple[Path, ...]
    """Folders called like a part, such as vocals, of whose songs no other part is to be found."""


def lay_out(audio: Iterable[Path], raw: Path) -> FolderLayout:
    """Sort the audio files below `raw` by song and part."""
    songs: dict[str, SongStems] = {}
    strange: dict[Path, SongError] = {}
    folders = _by_folder(audio)
    stems = {
        folder: stems_of_folder([path.stem for path in paths], folder.name) if folder != raw else {}
        for folder, paths in folders.items()
    }
    titles = _titles_of_part_folders({folder: paths for folder, paths in folders.items() if not stems[folder]}, raw)
    for folder, paths in folders.items():
        if stems[folder]:
            _add_folder(songs, folder, paths, stems[folder], raw)
        elif folder in titles.paired:
            part = part_named(folder.name)
            for path in paths:
                title = titles.by_path[path]
                song = _song(songs, folder.parent / title, raw)
                song.parts[PARTS[part]].append(path)
                song.places.add(name_below(folder / title, raw))
        else:
            strange |= dict(_strange(folder, paths, below=folder != raw))
            beside = frozenset(path.stem for path in paths)
            for path in paths:
                if path not in strange:
                    named = split_name(path.stem, beside)
                    _song(songs, folder / named.song, raw).parts[PARTS[named.part]].append(path)
    return FolderLayout(songs, strange, titles.lone)


def name_below(path: Path, raw: Path) -> str:
    """A path below the folder of songs, with slashes, in composed letters."""
    return one_form(path.relative_to(raw).as_posix())


def _song(songs: dict[str, SongStems], beside: Path, raw: Path) -> SongStems:
    return songs.setdefault(name_below(beside, raw), SongStems(beside))


def _add_folder(
    songs: dict[str, SongStems], folder: Path, paths: Iterable[Path], stems: Mapping[str, Named], raw: Path
) -> None:
    """A folder that is one song."""
    song = _song(songs, _without_model(folder, raw), raw)
    song.places |= {f"{name_below(folder, raw)}/", name_below(folder / folder.name, raw)}
    for path in paths:
        named = stems[path.stem]
        if named.part is None:
            word = named.word.replace("-", " ").replace("_", " ")
            song.others[word if word == "bass" or word.endswith(" bass") else word.removesuffix("s")].append(path)
        else:
            song.parts[PARTS[named.part]].append(path)


def _without_model(folder: Path, raw: Path) -> Path:
    """A song's folder without the separated/MODEL/ of Demucs before it: two models' stems are of one song."""
    steps = folder.relative_to(raw).parts
    if raw.resolve().name == SEPARATED_FOLDER and len(steps) > 1:
        return raw.joinpath(*steps[1:])
    for at in range(len(steps) - 2):
        if steps[at] == SEPARATED_FOLDER:
            return raw.joinpath(*steps[:at], *steps[at + 2 :])
    return folder


@dataclass(frozen=True)
class _PartTitles:
    """Folders for one part each, such as vocal/ and inst/."""

    by_path: Mapping[Path, str]
    paired: frozenset[Path]
    """Folders of which some song has another part elsewhere."""
    lone: tuple[Path, ...]


def _titles_of_part_folders(folders: Mapping[Path, list[Path]], raw: Path) -> _PartTitles:
    found: dict[Path, dict[Path, str]] = {}
    for folder, paths in folders.items():
        part = None if folder == raw else part_named(folder.name)
        titles = {path: title_in_part(path.stem, part) for path in paths} if part else {}
        if part and None not in titles.values():
            found[folder] = {path: title for path, title in titles.items() if title is not None}
    paired, lone = set[Path](), list[Path]()
    for folder, titles in found.items():
        part, own = part_named(folder.name), {one_form(title) for title in titles.values()}
        beside = {
            one_form(title)
            for other, its in found.items()
            if other.parent == folder.parent and part_named(other.name) != part
            for title in its.values()
        }
        mixes = (split_name(path.stem) for path in folders.get(folder.parent, []))
        beside |= {one_form(named.song) for named in mixes if part != MIX and named.part == MIX}
        if own & beside:
            paired.add(folder)
        elif part != MIX:
            lone.append(folder)
    return _PartTitles(
        {path: title for its in found.values() for path, title in its.items()}, frozenset(paired), tuple(lone)
    )


def _strange(folder: Path, paths: Iterable[Path], *, below: bool) -> Iterator[tuple[Path, SongError]]:
    paths = list(paths)
    found = stems_not_so_named([path.stem for path in paths], below=below)
    for path in paths:
        if (named := found.get(path.stem)) is not None:
            yield path, SongError("unknown_stem", _way_out(path, named, named.song.strip(" _.-") or folder.name))


def _way_out(path: Path, named: Named, song: str) -> str:
    if named.part is not None:
        return f"{path.name}: looks like the {named.part} of {song}. Name it {song}_{named.part}{path.suffix}."
    rest = f"two of {song}_vocal, {song}_inst and {song}_mix are enough"
    return f"{path.name}: looks like a stem of {song} ({named.word}), and only the sum is used. Leave it out; {rest}."


def _by_folder(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[path.parent].append(path)
    return folders


def _told_apart(paths: Iterable[Path]) -> list[str]:
    """The files' names, with their folders where those alone tell them apart."""
    paths = list(paths)
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = max(
        folder for path in paths[:1] for folder in path.parents if all(folder in each.parents for each in paths)
    )
    return [path.relative_to(shared).as_posix() for path in paths]

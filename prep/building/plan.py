"""What a build has to do: the songs of a folder against the shards that are there."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.progress import progress
from prep.building.cache import Cache
from prep.building.identity import KnownSong, know, sound_changes, text_changes
from prep.sources.scan import Scan
from shards.fingerprint import Fingerprint
from shards.schema import Manifest, Rejection, SongError
from shards.writer import rejection_of


@dataclass(frozen=True)
class Plan:
    """Every song of the folder and of the shards, in exactly one of these lists."""

    fingerprint: Fingerprint
    older: Manifest | None
    """The build that this one adds to."""
    fresh: tuple[KnownSong, ...]
    """Songs that it holds as they are."""
    reworded: tuple[KnownSong, ...]
    """Songs that it holds with other texts."""
    changed: tuple[KnownSong, ...]
    """Songs that it holds with other sound."""
    new: tuple[KnownSong, ...]
    gone: tuple[str, ...]
    """Keys of songs that it holds and the folder does not."""
    rejections: tuple[Rejection, ...]
    sound_changes: tuple[str, ...] = ()
    """Settings, networks and code that make all its samples stale."""
    text_changes: tuple[str, ...] = ()
    """The same for their texts alone."""

    def check(self) -> None:
        """Raise UserError where older samples cannot stand beside new ones."""
        if changes := self.sound_changes:
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise UserError(f"these shards were built otherwise: {changes[0]}{more}. Use --rebuild, or another folder.")
        if self.changed:
            have = f"and {len(self.changed) - 1} more have" if len(self.changed) > 1 else "has"
            raise UserError(f"{self.changed[0].song.name} {have} changed since these shards were built. Use --rebuild.")


def plan_build(found: Scan, raw: Path, fingerprint: Fingerprint, older: Manifest | None, cache: Cache) -> Plan:
    """Sort songs by what has to be done with them."""
    songs, rejections = list[KnownSong](), list(found.rejections)
    with progress(len(found.songs), "read", "songs") as done:
        for song in found.songs:
            try:
                songs.append(know(song, raw, sha256=cache.sha256))
            except SongError as error:
                rejections.append(rejection_of(song.key, error))
            done.update(note=song.key)
    entries = {} if older is None else older.songs()
    held = [known for known in songs if known.song.key in entries]
    same = [known for known in held if known.sounds_like(entries[known.song.key])]
    seen = {known.song.key for known in songs} | {rejection.key for rejection in rejections}
    return Plan(
        fingerprint,
        older,
        fresh=tuple(known for known in same if known.reads_like(entries[known.song.key])),
        reworded=tuple(known for known in same if not known.reads_like(entries[known.song.key])),
        changed=tuple(known for known in held if not known.sounds_like(entries[known.song.key])),
        new=tuple(known for known in songs if known.song.key not in entries),
        gone=tuple(sorted(entries.keys() - seen)),
        rejections=tuple(rejections),
        sound_changes=() if older is None else tuple(sound_changes(older.fingerprint, fingerprint)),
        text_changes=() if older is None else tuple(text_changes(older.fingerprint, fingerprint)),
    )

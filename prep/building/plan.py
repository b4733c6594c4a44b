"""What a build has to do: the songs of a folder against the shards that are there."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.progress import progress
from prep.building.cache import BuildCache
from prep.building.identity import HashedSong, hash_song, sound_changes, text_changes
from prep.sources.scan import Scan
from shards.fingerprint import Fingerprint
from shards.manifest import Manifest
from shards.rejection import Rejection, SongError
from shards.schema import VOCAL_FEATURES
from shards.writer import rejection_of


@dataclass(frozen=True)
class Plan:
    """Every song of the folder and of the shards, in exactly one of these lists."""

    fingerprint: Fingerprint
    older: Manifest | None
    """The build that this one adds to."""
    fresh: tuple[HashedSong, ...]
    """Songs that it holds as they are."""
    reworded: tuple[HashedSong, ...]
    """Songs that it holds with other texts."""
    changed: tuple[HashedSong, ...]
    """Songs that it holds with other sound."""
    new: tuple[HashedSong, ...]
    gone: tuple[str, ...]
    """Keys of songs that it holds and the folder does not."""
    rejections: tuple[Rejection, ...]
    sound_changes: tuple[str, ...] = ()
    """Settings, networks and code that make all its samples stale."""
    text_changes: tuple[str, ...] = ()
    """The same for their texts alone."""

    @property
    def featureless(self) -> tuple[HashedSong, ...]:
        """Songs that it holds without the features of their vocals, which this build keeps."""
        if self.older is None or VOCAL_FEATURES not in self.fingerprint.steps:
            return ()
        entries = self.older.songs()
        return tuple(one for one in (*self.fresh, *self.reworded) if not entries[one.song.key].vocal_features)

    def check(self) -> None:
        """Raises UserError where older samples cannot stand beside new ones."""
        if changes := self.sound_changes:
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise UserError(f"these shards were built otherwise: {changes[0]}{more}. Use --rebuild, or another folder.")
        if self.changed:
            have = f"and {len(self.changed) - 1} more have" if len(self.changed) > 1 else "has"
            raise UserError(f"{self.changed[0].song.name} {have} changed since these shards were built. Use --rebuild.")


def plan_build(found: Scan, raw: Path, fingerprint: Fingerprint, older: Manifest | None, cache: BuildCache) -> Plan:
    """Sort songs by what has to be done with them."""
    songs, rejections = list[HashedSong](), list(found.rejections)
    with progress(len(found.songs), "read", "songs") as done:
        for song in found.songs:
            try:
                songs.append(hash_song(song, raw, sha256=cache.sha256))
            except SongError as error:
                rejections.append(rejection_of(song.key, error))
            done.update(note=song.key)
    entries = {} if older is None else older.songs()
    held = [hashed for hashed in songs if hashed.song.key in entries]
    same = [hashed for hashed in held if hashed.sounds_like(entries[hashed.song.key])]
    seen = {hashed.song.key for hashed in songs} | {rejection.key for rejection in rejections}
    return Plan(
        fingerprint,
        older,
        fresh=tuple(hashed for hashed in same if hashed.reads_like(entries[hashed.song.key])),
        reworded=tuple(hashed for hashed in same if not hashed.reads_like(entries[hashed.song.key])),
        changed=tuple(hashed for hashed in held if not hashed.sounds_like(entries[hashed.song.key])),
        new=tuple(hashed for hashed in songs if hashed.song.key not in entries),
        gone=tuple(sorted(entries.keys() - seen)),
        rejections=tuple(rejections),
        sound_changes=() if older is None else tuple(sound_changes(older.fingerprint, fingerprint)),
        text_changes=() if older is None else tuple(text_changes(older.fingerprint, fingerprint)),
    )

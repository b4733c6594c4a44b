"""What decided a separated vocal, whatever the base model, and where such vocals are kept for the next build."""

from collections.abc import Sequence

from common.canonical import sha256_of
from common.errors import UserError
from common.files import cache_folder, check_writable
from common.progress import say
from models.loading.checkpoint import SEPARATOR
from prep.building.augmented import song_seconds
from prep.building.identity import HashedSong
from prep.config import PrepConfig
from prep.encoding.separated import WAVE_BYTES_PER_SECOND, VocalStore
from shards.fingerprint import Fingerprint
from shards.manifest import audio_identity

FOLDER = "separated"
DECIDING = ("silent_channel", "stems", "threads_per_worker", "device")
"""Settings that decide a separated vocal, beside those of the separator itself."""
STEPS = ("decode", "align", "separate")


def vocal_identity(hashed: HashedSong, config: PrepConfig, fingerprint: Fingerprint) -> str | None:
    """Hash over all that decides a full song's separated vocal: the same for every base model, and for other pitches.

    None for a song that is not separated.
    """
    separator = fingerprint.networks.get(SEPARATOR)
    if separator is None or not hashed.song.is_full:
        return None
    settings = {name: fingerprint.settings.get(name) for name in DECIDING} | {"overlap": config.separator.overlap}
    steps = {name: fingerprint.steps[name] for name in STEPS}
    return sha256_of([audio_identity(hashed.sources), separator, settings, steps])


def vocal_store() -> VocalStore:
    """The store of this machine."""
    return VocalStore(cache_folder() / FOLDER)


def usable_store() -> VocalStore | None:
    """The store of this machine, if anything can be written there."""
    try:
        check_writable(vocal_store().folder)
    except UserError:
        return None  # on a cluster that is a machine whose vocals are separated again
    return vocal_store()


def store_for(songs: Sequence[HashedSong], config: PrepConfig, fingerprint: Fingerprint) -> VocalStore | None:
    """Where the vocals of songs that are to be encoded are kept, and say what that takes; None where none are."""
    if not config.separator.keep:
        return None
    try:
        store, new = vocal_store(), dict[str, float]()
    except UserError as error:
        return _not_kept(error)
    for hashed in songs:
        identity = vocal_identity(hashed, config, fingerprint)
        if identity is not None and not store.path(identity).is_file():
            new[identity] = song_seconds(hashed.song) or 0.0
    if new:
        size = sum(new.values()) * WAVE_BYTES_PER_SECOND
        try:
            check_writable(store.folder, needed_bytes=round(size))
        except UserError as error:
            return _not_kept(error)
        say(
            f"{len(new)} separated vocals will be kept in {store.folder} ({size / 1e9:.2g} GB), so that a build with "
            "another base model need not separate again. Remove them when there is none to come; "
            "--set separator.keep=false keeps none."
        )
    return store


def _not_kept(error: UserError) -> None:
    say(f"separated vocals are not kept, and a build with another base model will separate again: {error}")

"""Songs that are made of those of the folder, and what they cost."""

from collections.abc import Sequence

from common.audio.decode import audio_seconds
from common.bases import BaseSpec
from common.errors import UserError
from common.music.vocal_features import FEATURE_RATE_HZ, PACKED_ROWS
from common.progress import say
from prep.config import PrepConfig
from prep.sources.scan import Scan, SongFiles
from prep.sources.shifted import with_shifted
from shards.manifest import Manifest
from shards.schema import SSL_WIDTHS

SSL_FRAMES_PER_SECOND = {"mert": 75, "mhubert": 50}
HALF_BYTES = 2
"""Of a float16."""


def augmented(found: Scan, config: PrepConfig, older: Manifest | None) -> Scan:
    """A folder's songs with those that are made of them: as asked for, else as the older shards hold them."""
    made = () if older is None else tuple({song.semitones for song in older.songs().values()})
    return with_shifted(found, config.augment.semitones or made)


def say_cost(songs: Sequence[SongFiles], config: PrepConfig, spec: BaseSpec) -> None:
    """What those of the new songs take that are others at another pitch."""
    added = [song for song in songs if song.parent is not None]
    if not added:
        return
    seconds = sum(song_seconds(song) or 0.0 for song in added)
    say(
        f"augment.semitones: {len(added)} of {len(songs)} new songs are others at another pitch. They take "
        f"{seconds * bytes_per_second(config, spec) / 1e9:.2g} GB of shards, and {len(added) / len(songs):.0%} of the "
        f"time: {seconds / 3600:.2g} hours of audio. prep plan measures how long."
    )


def bytes_per_second(config: PrepConfig, spec: BaseSpec) -> float:
    """Space that a second of audio takes, texts aside."""
    frame = spec.latents.frame_values * (1 + len(config.targets)) + 1  # the last is the activity
    features = sum(SSL_FRAMES_PER_SECOND[name] * SSL_WIDTHS[name] for name in config.ssl) * len(config.targets)
    features += PACKED_ROWS * FEATURE_RATE_HZ * config.vocal_features
    return (frame * spec.latents.frames_per_second + features) * HALF_BYTES


def song_seconds(song: SongFiles) -> float | None:
    """Length of a song's shortest file, undecoded where its bytes tell; None where one cannot be read."""
    try:
        return min(audio_seconds(path) for _, path in song.sources)
    except (UserError, OSError):
        return None

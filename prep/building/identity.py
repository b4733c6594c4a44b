"""What decided a build's bytes, as its fingerprint, and what decided one song's sound, as the name of its segments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.bases import BASES
from common.canonical import sha256_of, sha256_of_file, unicode_text
from models.acestep1.text.romanising import romaniser_of
from models.loading.checkpoint import SEPARATOR, part_hash, spec_of
from models.separator import SeparatorFiles
from prep.building.cache import Stamp, stamp_of
from prep.config import PrepConfig
from prep.encoding.separator_command import SeparatorCommand
from prep.sources.scan import SongFiles
from shards.fingerprint import Fingerprint
from shards.manifest import Manifest, SongEntry, audio_identity, text_identity
from shards.rejection import SongError
from shards.schema import VOCAL_FEATURES, Source, SslName

STEPS = {"decode": 3, "align": 3, "separate": 2, "segment": 1, "level": 2, "encode": 2, "text": 2}
"""Version of each step's code; raise one when a change alters the bytes that its step makes."""
OPTIONAL_STEPS = {VOCAL_FEATURES: 1}
"""The same of steps that a setting of the same name asks for."""
ARITHMETIC = {"cuda": "cuda without TF32"}
"""Devices that a fingerprint says more of than their name: builds of a version that left TF32 on are others."""
NO_BYTES = {"text": {"prompt_cache_mib"}, "separator": {"command", "keep"}, "augment": {"semitones"}}
"""Settings that are in no fingerprint, as they change no bytes, stand among the networks or say which songs to make."""
ROMANISER = "lyric_romaniser"
"""What stands in a fingerprint for the packages that romanise the language of its lyrics."""
LYRIC_READERS = frozenset({ROMANISER, *(spec.lyric_vocabulary for spec in BASES.values() if spec.lyric_vocabulary)})
"""What may be there for one build and not for the next."""
CODECS = {spec.parts.codec: spec.name for spec in BASES.values()}
"""Of which base model a codec is."""
WORDS = frozenset({"text", *LYRIC_READERS, *(spec.parts.text_encoder for spec in BASES.values())})
"""Settings, networks and steps that decide a sample's texts and nothing else."""


@dataclass(frozen=True)
class HashedSong:
    """A song with the content of its files."""

    song: SongFiles
    sources: tuple[Source, ...]
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)
    """What the system said of its files before they were read."""

    @property
    def audio_sha256(self) -> str:
        """Hash over what its audio files hold."""
        return audio_identity(self.sources, self.song.semitones)

    def sounds_like(self, entry: SongEntry) -> bool:
        """Whether a manifest's entry was made from just these audio files."""
        return entry.audio_sha256 == self.audio_sha256

    def reads_like(self, entry: SongEntry) -> bool:
        """Whether a manifest's entry was made from just these texts."""
        song = self.song
        return entry.text_sha256 == text_identity(song.prompt, song.lyrics, song.lead_sheet_sha256)

    def check_unchanged(self) -> None:
        """Raises SongError where a file is no longer the one that was hashed."""
        for path, stamp in self.stamps.items():
            if not path.is_file() or stamp_of(path) != stamp:
                raise SongError("unreadable", f"{path.name}: changed while it was being read. Run prep again.")


def hash_song(song: SongFiles, raw: Path, *, sha256: Callable[[Path], str] = sha256_of_file) -> HashedSong:
    """Hash a song's files. Raises SongError where one has gone, or is no file."""
    stamps = {path: stamp_of(path) for _, path in song.sources if path.is_file()}
    sources = [_source(part, path, raw, sha256) for part, path in song.sources]
    return HashedSong(song, tuple(sources), stamps)


def build_fingerprint(
    config: PrepConfig,
    checkpoint: Path,
    separator: SeparatorFiles | SeparatorCommand | None,
    device_type: str,
    *,
    ssl: Mapping[SslName, Path] | None = None,
) -> Fingerprint:
    """Everything that decides the bytes of a build, but the songs."""
    spec = spec_of(checkpoint)
    networks = {part: part_hash(checkpoint, part) for part in spec.parts.encoders}
    if spec.lyric_vocabulary and (vocabulary := checkpoint / spec.lyric_vocabulary).is_file():
        networks[vocabulary.name] = sha256_of_file(vocabulary)
        if romaniser := romaniser_of(config.text.lyrics_language):
            networks[ROMANISER] = sha256_of(romaniser)
    if separator is not None:
        networks[SEPARATOR] = separator.content_hash()
    if ssl:
        from prep.encoding.ssl import ssl_hash

        networks |= {name: ssl_hash(name, folder) for name, folder in ssl.items()}
    settings = {**config.model_dump(mode="json", exclude=NO_BYTES), "device": ARITHMETIC.get(device_type, device_type)}
    steps = STEPS | {name: version for name, version in OPTIONAL_STEPS.items() if name in settings}
    return Fingerprint(settings=settings, networks=networks, steps=steps)


def as_before(config: PrepConfig, older: Manifest | None) -> PrepConfig:
    """A build's settings, with the optional fields that the older shards hold."""
    held = older is not None and VOCAL_FEATURES in older.fingerprint.steps
    return config.model_copy(update={VOCAL_FEATURES: config.vocal_features or held})


def sound_identity(hashed: HashedSong, fingerprint: Fingerprint) -> str:
    """Hash over all that decides a song's latents: its sound, and the settings, networks and steps it goes through."""
    unused = WORDS | {"shard_samples"} | (set() if hashed.song.is_full else {SEPARATOR})
    through = fingerprint.part(lambda name: name not in unused)
    return sha256_of([hashed.audio_sha256, through.settings, through.networks, through.steps])


def features_identity(hashed: HashedSong, fingerprint: Fingerprint) -> str:
    """The same for the features of its vocal alone."""
    return sha256_of([sound_identity(hashed, fingerprint), VOCAL_FEATURES])


def sound_changes(older: Fingerprint, newer: Fingerprint) -> list[str]:
    """What is different, but for what decides texts, and for optional fields that the older shards lack."""
    was, now = ([CODECS[name] for name in fingerprint.networks if name in CODECS] for fingerprint in (older, newer))
    if was and now and was != now:
        return [f"the base model was {was[0]} and is {now[0]}"]
    passed_over = WORDS | (OPTIONAL_STEPS.keys() - older.steps.keys())
    return older.part(lambda name: name not in passed_over).differences(
        newer.part(lambda name: name not in passed_over)
    )


def text_changes(older: Fingerprint, newer: Fingerprint) -> list[str]:
    """What is different among that which decides texts."""
    was, now = (LYRIC_READERS & fingerprint.networks.keys() for fingerprint in (older, newer))
    readers = [f"{name} {'is there now' if name in now else 'has gone'}" for name in sorted(was ^ now)]
    return older.part(WORDS.__contains__).differences(newer.part(WORDS.__contains__)) + readers


def _source(part: str, path: Path, raw: Path, sha256: Callable[[Path], str]) -> Source:
    if not path.is_file():
        raise SongError("unreadable", f"{path.name}: {'is not a file' if path.exists() else 'no such file'}.")
    try:
        digest = sha256(path)
    except OSError as error:
        raise SongError("unreadable", f"{path.name}: cannot be read ({error.strerror}).") from None
    return Source.model_validate(
        {"part": part, "file": unicode_text(path.relative_to(raw).as_posix()), "sha256": digest}
    )

"""What decided a build's bytes, as its fingerprint, and what decided one song's sound, as the name of its spill."""

from dataclasses import dataclass
from pathlib import Path

from common.canonical import sha256_of, sha256_of_file, unicode_text
from models.checkpoint import part_hash
from models.lyric_tokens import VOCABULARY_FILE
from prep.config import PrepConfig
from prep.scan import Song
from prep.separate import SeparatorFiles
from shards.fingerprint import Fingerprint
from shards.schema import SongEntry, SongError, Source, audio_identity, text_identity

CODEC, TEXT, SEPARATOR = "music_dcae_f8c8", "umt5-base", "demucs"
STEPS = {"decode": 1, "align": 1, "separate": 1, "segment": 1, "level": 1, "encode": 1, "text": 1}
"""Version of each step's code; raise one when a change alters the bytes that its step makes."""
TEXT_ONLY = ("text", "shard_samples", TEXT, VOCABULARY_FILE)
"""Settings, networks and steps that a song's sound does not depend on."""


@dataclass(frozen=True)
class KnownSong:
    """A song with the content of its files."""

    song: Song
    sources: tuple[Source, ...]

    def is_entry(self, entry: SongEntry) -> bool:
        """Whether a manifest's entry was made from just this sound and these texts."""
        texts = text_identity(self.song.prompt, self.song.lyrics)
        return (entry.audio_sha256, entry.text_sha256) == (audio_identity(self.sources), texts)


def know(song: Song, raw: Path) -> KnownSong:
    """Hash a song's files. Raises SongError where one has gone, or is no file."""
    return KnownSong(song, tuple(_source(part, path, raw) for part, path in sorted(song.files.items())))


def build_fingerprint(
    config: PrepConfig, checkpoint: Path, separator: SeparatorFiles | None, device_type: str
) -> Fingerprint:
    """Everything that decides the bytes of a build, but the songs."""
    networks = {CODEC: part_hash(checkpoint, "music_dcae_f8c8"), TEXT: part_hash(checkpoint, "umt5-base")}
    if (checkpoint / VOCABULARY_FILE).is_file():
        networks[VOCABULARY_FILE] = sha256_of_file(checkpoint / VOCABULARY_FILE)
    if separator is not None:
        networks[SEPARATOR] = separator.content_hash()
    settings = {**config.model_dump(mode="json"), "device": device_type}
    return Fingerprint(settings=settings, networks=networks, steps=STEPS)


def sound_identity(known: KnownSong, fingerprint: Fingerprint) -> str:
    """Hash over all that decides a song's latents: its sound, and the settings, networks and steps it goes through."""
    unused = (*TEXT_ONLY, *(() if known.song.is_full else (SEPARATOR,)))
    through = [
        {name: value for name, value in layer.items() if name not in unused}
        for layer in (fingerprint.settings, fingerprint.networks, fingerprint.steps)
    ]
    return sha256_of([audio_identity(known.sources), *through])


def _source(part: str, path: Path, raw: Path) -> Source:
    if not path.is_file():
        raise SongError("unreadable", f"{path.name}: {'is not a file' if path.exists() else 'no such file'}.")
    try:
        digest = sha256_of_file(path)
    except OSError as error:
        raise SongError("unreadable", f"{path.name}: cannot be read ({error.strerror}).") from None
    return Source.model_validate(
        {"part": part, "file": unicode_text(path.relative_to(raw).as_posix()), "sha256": digest}
    )

"""A folder of songs into shards: what is new is encoded into a segment cache, then all is packed, the manifest last.

A build that was stopped anywhere goes on from that cache, and ends with the bytes of one that was not.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.files import check_writable
from common.memory import explain_out_of_memory
from common.progress import progress, say
from models.loading.checkpoint import check_lyrics_language
from models.loading.family import choose_checkpoint, find_encoders, known_base
from models.separator import SeparatorFiles, find_separator
from prep.building.augmented import augmented, say_cost
from prep.building.cache import CACHE_FILE, BuildCache, remember_manifest
from prep.building.identity import (
    LYRIC_READERS,
    HashedSong,
    as_before,
    build_fingerprint,
    features_identity,
    sound_identity,
)
from prep.building.jobs import EncodedPart, EncodeSetup, SongJob
from prep.building.plan import Plan, plan_build
from prep.building.reword import Changes, rewrite
from prep.building.sample import make_samples
from prep.building.segment_cache import SegmentCache
from prep.building.separation import store_for, vocal_identity
from prep.building.workers import Engine, run_jobs, torch_threads
from prep.config import PrepConfig, SeparatorConfig
from prep.encoding.encode import open_encoder, silence_latent
from prep.encoding.separator_command import SeparatorCommand, find_command
from prep.encoding.text import TextMaker, open_texts, say_what_was_left_out
from prep.sources.remarks import named, say_remarks
from prep.sources.scan import NO_LYRICS, NO_PROMPT, Scan, scan
from shards.fingerprint import Fingerprint
from shards.lock import build_folder, sweep
from shards.manifest import MANIFEST_FILE, Manifest
from shards.reader import read_manifest
from shards.rejection import REJECTED_FILE, Rejection, SongError
from shards.writer import ShardWriter, rejection_of

WAYS_OUT = (
    "close what else is using the device",
    "--workers 1",
    "--device cpu",
)
KEPT = "every segment that is encoded is kept, and the same command goes on from there."
WAYS_TO = {"prompt": " prep caption writes prompts of what can be measured."}
"""What helps where texts of a kind are missing."""
NOTED_SONGS = 8
"""So many songs are named that were mended or have a silent channel."""


@dataclass(frozen=True)
class BuildReport:
    """How a build went."""

    kept: int
    """Songs of the folder that are in the shards now."""
    rejections: tuple[Rejection, ...]
    manifest: Manifest
    encoded: tuple[EncodedPart, ...]
    """What went through the codec, by song and segment."""
    embedded: tuple[str, ...]
    """Prompts that went through the text encoder."""
    gone: tuple[str, ...]
    """Keys of songs that the folder has no more; they are still in the shards unless they were pruned."""
    unused: tuple[str, ...] = ()
    """Files of the folder that nobody used."""


def build_shards(
    raw: Path,
    out: Path,
    config: PrepConfig,
    *,
    checkpoint: str,
    workers: int | None,
    devices: Sequence[str],
    rebuild: bool,
    prune: bool = False,
    ssl_folder: Path | None = None,
    engine: Engine = "local",
) -> BuildReport:
    """Bring `out` up to date with the songs in `raw`.

    Raises UserError where that would need `rebuild`, and where no song can be kept.
    """
    check_writable(out)
    found = scan(raw)
    say_remarks(found)
    config = as_before(config, None if rebuild else manifest_of(out))
    setup = equip(found, config, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder)
    fingerprint = fingerprint_of(setup)
    with build_folder(out) as room, torch_threads(config.threads_per_worker):
        older = None if rebuild else manifest_of(out)
        cache = BuildCache(room)
        plan = plan_build(augmented(found, config, older), raw, fingerprint, older, cache)
        plan.check()
        say_cost([hashed.song for hashed in plan.new], config, setup.base.spec)
        cache.save()
        with _interruptible(), explain_out_of_memory("encoding songs", *WAYS_OUT, kept=KEPT.capitalize):
            setup = replace(setup, store=store_for([*plan.new, *plan.featureless], config, fingerprint))
            report = _Build(out, room, plan, setup, workers, engine, cache, prune).run()
        remember_manifest(room, out)
        sweep(room, keep=[CACHE_FILE, MANIFEST_FILE])
    return replace(report, unused=found.unused)


@contextmanager
def _interruptible() -> Generator[None]:
    """Say what becomes of the work where Ctrl-C stops it."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; {KEPT}")
        raise


def manifest_of(out: Path) -> Manifest | None:
    """The manifest of shards that are there; None where none are."""
    return read_manifest(out) if (out / MANIFEST_FILE).is_file() else None


def checkpoint_for(given: str | None, out: Path) -> str:
    """The checkpoint that is `given`, else that which made the shards in `out`. Raises UserError where neither is."""
    manifest = manifest_of(out)
    if manifest is None:
        return choose_checkpoint(given, None)
    return choose_checkpoint(given, known_base(manifest.base, manifest.fingerprint.networks.values()), out)


def equip(
    found: Scan, config: PrepConfig, *, checkpoint: str, devices: Sequence[str], ssl_folder: Path | None
) -> EncodeSetup:
    """What these songs need; the networks are found, not opened.

    Raises UserError for one that is not there, for a language that the base model cannot read lyrics in, and for SSL
    features that it has no use for.
    """
    folder, base = find_encoders(checkpoint)
    check_lyrics_language(base.spec, config.text.lyrics_language)
    if config.ssl and not base.spec.has_feature_losses:
        raise UserError(f"ssl: {base.spec.name} has no layers that features are compared through. Leave --ssl out.")
    separated = any(song.is_full for song in found.songs)
    separator = _separator(config.separator, folder) if separated else None
    ssl = tuple((name, (ssl_folder or folder) / name) for name in config.ssl)
    return EncodeSetup(config, folder, separator, tuple(devices), ssl, base)


def _separator(config: SeparatorConfig, checkpoint: Path) -> SeparatorFiles | SeparatorCommand | None:
    return find_separator(config.name, checkpoint) if config.command is None else find_command(config.command)


def fingerprint_of(setup: EncodeSetup) -> Fingerprint:
    """Everything that decides what encoding with a setup gives, but the songs."""
    device_type = torch.device(setup.devices[0]).type
    return build_fingerprint(setup.config, setup.checkpoint, setup.separator, device_type, ssl=dict(setup.ssl))


@dataclass(frozen=True)
class _Build:
    """A planned build."""

    out: Path
    room: Path
    plan: Plan
    setup: EncodeSetup
    workers: int | None
    engine: Engine
    cache: BuildCache
    prune: bool
    encoded: list[EncodedPart] = field(default_factory=list)

    def run(self) -> BuildReport:
        rejections = [*self.plan.rejections, *self._encode(), *self._measure()]
        rejected = {rejection.key for rejection in rejections}
        songs = [hashed for hashed in self.plan.new if hashed.song.key not in rejected]
        with ShardWriter(
            self.out,
            fingerprint=self.plan.fingerprint,
            targets=self.setup.config.targets,
            base=self.setup.base,
            shard_samples=self.setup.config.shard_samples,
            silence=self._silence() if songs or self.plan.older else None,
            append=self._older(),
        ) as writer:
            for rejection in rejections:
                writer.reject(rejection)
            self._rewrite(writer)
            self._pack(songs, writer)
        self.cache.save()
        _say_notes(writer.manifest(), songs)
        if "_texts" in vars(self):
            say_what_was_left_out(self._texts)
        return self._report(writer)

    def _older(self) -> Manifest | None:
        """The older manifest, without readers of lyrics that need not be those that its texts are made with now."""
        if self.plan.older is None:
            return None
        fingerprint = self.plan.older.fingerprint.part(lambda name: name not in LYRIC_READERS)
        return self.plan.older.model_copy(update={"fingerprint": fingerprint})

    @property
    def _dropped(self) -> frozenset[str]:
        return frozenset(self.plan.gone if self.prune else ())

    def _identity(self, hashed: HashedSong) -> str:
        return sound_identity(hashed, self.plan.fingerprint)

    def _segment_cache(self, hashed: HashedSong) -> SegmentCache:
        return SegmentCache(self.room, self._identity(hashed))

    @cached_property
    def _features(self) -> dict[str, SegmentCache]:
        """Where the features of songs go that older shards hold without them, by key."""
        fingerprint = self.plan.fingerprint
        return {
            hashed.song.key: SegmentCache(self.room, features_identity(hashed, fingerprint))
            for hashed in self.plan.featureless
        }

    def _encode(self) -> list[Rejection]:
        """Cache the segments of every new song, and say which songs cannot be used."""
        rejections, jobs, identities = [], list[SongJob](), dict[str, str]()
        for hashed in self.plan.new:
            rejected = self.cache.rejected(self._identity(hashed)) or self._repeats(
                hashed, self.cache.sounds.get(hashed.audio_sha256)
            )
            rejections += [rejection_of(hashed.song.key, rejected)] if rejected else []
            identities[hashed.song.key] = self._identity(hashed)
            cached = self._segment_cache(hashed)
            if not (rejected or cached.is_whole()):
                jobs.append(self._job(hashed, cached))
        for rejection in self._run(jobs):
            self.cache.remember_rejection(identities[rejection.key], rejection.reason, rejection.detail)
            rejections.append(rejection)
        return rejections

    def _measure(self) -> list[Rejection]:
        """Cache the features of songs that older shards hold without them, and say of which they cannot be had."""
        jobs = [
            replace(self._job(hashed, cached), features_alone=True)
            for hashed in self.plan.featureless
            if not (cached := self._features[hashed.song.key]).is_whole()
        ]
        return self._run(jobs, "features")

    def _job(self, hashed: HashedSong, cached: SegmentCache) -> SongJob:
        vocal = vocal_identity(hashed, self.setup.config, self.plan.fingerprint)
        return SongJob(hashed, cached, cached.finished(), vocal_identity=vocal)

    def _run(self, jobs: Sequence[SongJob], name: str = "encode") -> list[Rejection]:
        if not jobs:
            return []
        rejections, hours, started = [], 0.0, time.monotonic()
        with progress(len(jobs), name, "songs") as done:
            for result in run_jobs(jobs, self.setup, workers=self.workers, engine=self.engine):
                rejections += [result.rejection] if result.rejection else []
                self.encoded.extend(result.encoded)
                hours += result.seconds / 3600
                rate = hours / max(time.monotonic() - started, 1e-9)
                done.update(int(result.is_last), note=f"{rate:.2g} hours of audio a second; {result.key}")
        return rejections

    @cached_property
    def _names_by_sound(self) -> dict[str, str]:
        """Names of songs that are in the shards, by sound_sha256; songs are added as they are packed."""
        songs = {} if self.plan.older is None else self.plan.older.songs()
        return {
            song.sound_sha256: song.name
            for song in songs.values()
            if song.sound_sha256 is not None and song.key not in self._dropped
        }

    def _repeats(self, hashed: HashedSong, sound: str | None) -> SongError | None:
        """The error of a song whose decoded sound is that of one before it."""
        first = None if sound is None else self._names_by_sound.get(sound)
        if first is None:
            return None
        file = hashed.song.files.get("mix") or next(iter(hashed.song.files.values()))
        return SongError("duplicate", f"{file.name}: the same audio as {first}. Keep one of them.")

    def _silence(self) -> np.ndarray:
        """The latent of silence [C, H]: the older manifest's, which is of the same codec, or made now."""
        if self.plan.older is not None and self.plan.older.statistics is not None:
            return np.array(self.plan.older.statistics.silence)
        setup = self.setup
        return silence_latent(open_encoder(setup.checkpoint, setup.config.encode, setup.devices[0]))

    @cached_property
    def _texts(self) -> TextMaker:
        return open_texts(self.setup.checkpoint, self.setup.config.text, self.setup.devices[0])

    def _rewrite(self, writer: ShardWriter) -> None:
        """Bring older shards up to date but for latents, and leave out songs that are to be dropped."""
        plan = self.plan
        changes = Changes(
            songs={hashed.song.key: hashed.song for hashed in (*plan.fresh, *plan.reworded)},
            reworded=frozenset(hashed.song.key for hashed in plan.reworded),
            all_texts=bool(plan.text_changes),
            dropped=self._dropped,
            features={key: cached for key, cached in self._features.items() if cached.is_whole()},
        )
        shards = [shard for shard in (plan.older.shards if plan.older else ()) if changes.touch(shard)]
        if not shards:
            return
        with progress(len(shards), "rewrite", "shards") as done:
            for shard in shards:
                rewrite(writer, self.out, shard, changes, self._texts)
                done.update(note=shard.name)

    def _pack(self, songs: Sequence[HashedSong], writer: ShardWriter) -> None:
        """Join sound and texts, song by song in the order of keys."""
        if not songs:
            return
        wordless = 0
        with progress(len(songs), "pack", "songs") as done:
            for hashed in songs:
                with writer.rejecting(hashed.song.key):
                    wordless += self._pack_song(hashed, writer)
                done.update(note=hashed.song.key)
        _say_what_is_missing(songs, wordless, self.setup.base.spec.lyric_vocabulary)

    def _pack_song(self, hashed: HashedSong, writer: ShardWriter) -> bool:
        """Add one song; whether words were left out of its lyrics. Raises SongError where it cannot be used."""
        cached = self._segment_cache(hashed)
        sound = cached.sound_sha256
        if error := self._repeats(hashed, sound):
            self.cache.sounds[hashed.audio_sha256] = sound
            raise error
        lyrics = self._texts.lyrics(hashed.song.lyrics)
        writer.add(make_samples(hashed, cached.read(), self._texts, lyrics, sound_sha256=sound))
        self._names_by_sound[sound] = hashed.song.name
        return lyrics.dropped_words

    def _report(self, writer: ShardWriter) -> BuildReport:
        plan, rejections = self.plan, writer.rejections
        songs = len(plan.fresh) + len(plan.reworded) + len(plan.new) + len(plan.rejections)
        kept = songs - len(rejections)
        if kept == 0:
            raise UserError(
                f"none of {len(rejections)} songs can be used ({self.out / REJECTED_FILE}); the first, "
                f"{rejections[0].key}: {rejections[0].detail}"
            )
        embedded = tuple(self._texts.embedded) if "_texts" in vars(self) else ()
        return BuildReport(kept, rejections, writer.manifest(), tuple(sorted(self.encoded)), embedded, plan.gone)


def _say_notes(manifest: Manifest, new: Sequence[HashedSong]) -> None:
    """What was found of new songs' files, and mended."""
    entries = manifest.songs()
    keys = [hashed.song.key for hashed in new if hashed.song.key in entries]
    noted = {key: " ".join(entries[key].notes) for key in keys if entries[key].notes}
    for key in list(noted)[:NOTED_SONGS]:
        say(f"{key}: {noted[key]}")
    if len(noted) > NOTED_SONGS:
        say(f"{len(noted) - NOTED_SONGS} more songs were mended or have a silent channel: prep status names them.")


def _say_what_is_missing(songs: Sequence[HashedSong], wordless: int, vocabulary: str | None) -> None:
    given = [hashed.song for hashed in songs if hashed.song.parent is None]
    for kind, default, missing in (
        ("prompt", NO_PROMPT, [song.name for song in given if not song.has_prompt]),
        ("lyrics", NO_LYRICS, [song.name for song in given if not song.has_lyrics]),
    ):
        if missing:
            without = f"{len(missing)} of {len(given)} new songs have no KEY_{kind}.txt ({named(missing)})"
            say(f'{without}; their {kind} {"is" if kind == "prompt" else "are"} "{default}".{WAYS_TO.get(kind, "")}')
    if wordless:
        say(f"{wordless} of {len(songs)} new songs have words in their lyrics, which need {vocabulary} in the "
            "checkpoint folder; only their tags are kept.")  # fmt: skip

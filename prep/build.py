"""A folder of songs into shards: what is new is encoded into spills, then all of it is packed, the manifest last.

A build that was stopped anywhere goes on from its spills, and ends with the bytes of one that was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.progress import progress, say
from models.checkpoint import open_codec, open_text_encoder, resolve_checkpoint
from models.lyric_tokens import VOCABULARY_FILE, open_lyric_vocabulary
from prep.config import PrepConfig
from prep.encode import silence_latent
from prep.identity import KnownSong, build_fingerprint, know, sound_identity
from prep.sample import make_samples
from prep.scan import NO_PROMPT, Scan, scan
from prep.separate import find_separator
from prep.spill import read_spill, spill_path
from prep.text import TextMaker
from prep.workers import Job, Workshop, run_jobs, torch_threads
from shards.fingerprint import Fingerprint
from shards.lock import build_folder, sweep
from shards.reader import read_manifest
from shards.schema import MANIFEST_FILE, REJECTED_FILE, Manifest, Rejection, SongError
from shards.writer import ShardWriter, rejection_of


@dataclass(frozen=True)
class Report:
    """How a build went."""

    kept: int
    """Songs of the folder that are in the shards now."""
    rejections: tuple[Rejection, ...]
    manifest: Manifest


@dataclass(frozen=True)
class Plan:
    """What a build has to do."""

    fingerprint: Fingerprint
    older: Manifest | None
    """The build that this one adds to."""
    held: tuple[KnownSong, ...]
    """Songs that it holds already."""
    new: tuple[KnownSong, ...]
    rejections: tuple[Rejection, ...]


def build_shards(
    raw: Path,
    out: Path,
    config: PrepConfig,
    *,
    checkpoint: str,
    workers: int | None,
    devices: Sequence[str],
    rebuild: bool,
) -> Report:
    """Bring `out` up to date with the songs in `raw`.

    Raises UserError where that would need `rebuild`, and where no song can be kept.
    """
    found = scan(raw)
    folder = resolve_checkpoint(checkpoint, ["music_dcae_f8c8", "umt5-base"])
    separated = any(song.is_full for song in found.songs)
    separator = find_separator(config.separator.name, folder) if separated else None
    fingerprint = build_fingerprint(config, folder, separator, torch.device(devices[0]).type)
    with build_folder(out) as room, torch_threads(config.threads_per_worker):
        older = read_manifest(out) if (out / MANIFEST_FILE).exists() and not rebuild else None
        plan = plan_build(found, raw, fingerprint, older)
        report = _Build(out, room, plan, Workshop(config, folder, separator, tuple(devices)), workers).run()
        sweep(room)
    return report


def plan_build(found: Scan, raw: Path, fingerprint: Fingerprint, older: Manifest | None) -> Plan:
    """Sort songs into those that `older` holds and new ones.

    Raises UserError where settings, networks, code or a song changed: older samples cannot stand beside new ones.
    """
    if older is not None and (changes := older.fingerprint.differences(fingerprint)):
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        raise UserError(f"these shards were built otherwise: {changes[0]}{more}. Use --rebuild, or another folder.")
    songs, rejections = list[KnownSong](), list(found.rejections)
    for song in found.songs:
        try:
            songs.append(know(song, raw))
        except SongError as error:
            rejections.append(rejection_of(song.key, error))
    entries = {} if older is None else older.songs()
    held = [known for known in songs if known.song.key in entries]
    changed = [known.song.name for known in held if not known.is_entry(entries[known.song.key])]
    if changed:
        have = f"and {len(changed) - 1} more have" if len(changed) > 1 else "has"
        raise UserError(f"{changed[0]} {have} changed since these shards were built. Use --rebuild.")
    new = [known for known in songs if known.song.key not in entries]
    return Plan(fingerprint, older, tuple(held), tuple(new), tuple(rejections))


@dataclass(frozen=True)
class _Build:
    """A planned build."""

    out: Path
    room: Path
    plan: Plan
    workshop: Workshop
    workers: int | None

    def run(self) -> Report:
        rejections = [*self.plan.rejections, *self._encode()]
        rejected = {rejection.key for rejection in rejections}
        songs = [known for known in self.plan.new if known.song.key not in rejected]
        with ShardWriter(
            self.out,
            fingerprint=self.plan.fingerprint,
            targets=self.workshop.config.targets,
            shard_samples=self.workshop.config.shard_samples,
            silence=self._silence() if songs or self.plan.older else None,
            append=self.plan.older,
        ) as writer:
            for rejection in rejections:
                writer.reject(rejection)
            if songs:
                self._pack(songs, writer)
        return self._report(writer)

    def _spill(self, known: KnownSong) -> Path:
        return spill_path(self.room, sound_identity(known, self.plan.fingerprint))

    def _encode(self) -> list[Rejection]:
        """Leave a spill of every new song, and say which cannot be used."""
        jobs = [Job(known.song, self._spill(known)) for known in self.plan.new]
        waiting = [job for job in jobs if not job.spill.exists()]
        if not waiting:
            return []
        rejections = []
        with progress(len(waiting), "encode", "songs") as done:
            for rejection in run_jobs(waiting, self.workshop, workers=self.workers):
                rejections += [rejection] if rejection else []
                done.update()
        return rejections

    def _silence(self) -> np.ndarray:
        """The latent of silence [C, H]: the older manifest's, which is of the same codec, or made now."""
        if self.plan.older is not None and self.plan.older.statistics is not None:
            return np.array(self.plan.older.statistics.silence)
        codec = open_codec(self.workshop.checkpoint, encoder=True, decoder=False)
        return silence_latent(codec.to(self.workshop.devices[0]))

    def _pack(self, songs: Sequence[KnownSong], writer: ShardWriter) -> None:
        """Join sound and texts, song by song in the order of keys."""
        folder, device = self.workshop.checkpoint, self.workshop.devices[0]
        encoder, vocabulary = open_text_encoder(folder).to(device), open_lyric_vocabulary(folder)
        texts = TextMaker(self.workshop.config.text, encoder, vocabulary)
        wordless = 0
        with progress(len(songs), "pack", "songs") as done:
            for known in songs:
                with writer.rejecting(known.song.key):
                    lyrics, prompt = texts.lyrics(known.song.lyrics), texts.prompt(known.song.prompt)
                    writer.add(make_samples(known, read_spill(self._spill(known)), prompt, lyrics))
                    wordless += lyrics.dropped_words
                done.update(note=known.song.key)
        _say_what_is_missing(songs, wordless)

    def _report(self, writer: ShardWriter) -> Report:
        rejections = writer.rejections
        kept = len(self.plan.held) + len(self.plan.new) + len(self.plan.rejections) - len(rejections)
        if kept == 0:
            raise UserError(
                f"none of {len(rejections)} songs can be used ({self.out / REJECTED_FILE}); the first, "
                f"{rejections[0].key}: {rejections[0].detail}"
            )
        return Report(kept, rejections, writer.manifest())


def _say_what_is_missing(songs: Sequence[KnownSong], wordless: int) -> None:
    unprompted = sum(not known.song.has_prompt for known in songs)
    if unprompted:
        say(f'{unprompted} of {len(songs)} new songs have no KEY_prompt.txt; their prompt is "{NO_PROMPT}".')
    if wordless:
        say(f"{wordless} of {len(songs)} new songs have words in their lyrics, which need {VOCABULARY_FILE} in the "
            "checkpoint folder; only their tags are kept.")  # fmt: skip

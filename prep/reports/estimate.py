"""What a build would take: hours of music, space, time. Time is measured on a short made-up song."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from common.audio.wave import write_audio
from prep.building.augmented import HALF_BYTES, bytes_per_second, song_seconds
from prep.building.jobs import EncodeSetup
from prep.building.plan import Plan
from prep.building.workers import default_workers, torch_threads
from prep.config import PrepConfig, StemsConfig
from prep.encoding.encode import SongEncoder
from prep.reports.status import survey
from prep.sources.remarks import listed
from prep.sources.scan import NO_LYRICS, NO_PROMPT, SongFiles
from shards.schema import Part

MEASURED_SECONDS = 8.0
TEXT_STATES = 4 * 32
"""Of one sample: four orders of a prompt of 32 tokens."""
LYRIC_ROWS = 400
"""Of one sample of a base model that has them: lyrics of some 200 words."""


@dataclass(frozen=True)
class BuildEstimate:
    """What a build would take."""

    songs: int
    unreadable: int
    hours: float
    shards: int
    gigabytes: float
    hours_of_work: float
    workers: int
    unused: tuple[str, ...] = ()
    """Files of the folder that nobody would use."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Why, by key, of songs whose names or texts are already known to be of no use."""


def estimate_build(
    raw: Path,
    out: Path,
    config: PrepConfig,
    *,
    checkpoint: str,
    devices: Sequence[str],
    ssl_folder: Path | None,
    workers: int | None,
) -> BuildEstimate:
    """What bringing `out` up to date with the songs in `raw` would take; writes nothing.

    Raises UserError where songs or networks are not there.
    """
    found = survey(raw, out, config, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder)
    songs = _songs_to_encode(found.plan)
    made = estimate(songs, found.setup, workers or default_workers(devices, len(songs)))
    rejected = {row.key: f"{row.reason}: {row.detail}" for row in found.plan.rejections}
    return replace(made, unused=found.unused, rejected=rejected)


def _songs_to_encode(plan: Plan) -> list[SongFiles]:
    stale = (*plan.fresh, *plan.reworded) if plan.sound_changes else ()
    return [hashed.song for hashed in (*plan.new, *plan.changed, *stale)]


def estimate(songs: Sequence[SongFiles], setup: EncodeSetup, workers: int) -> BuildEstimate:
    """What encoding these songs would take. Raises UserError for a network that cannot be opened."""
    seconds = {song.key: length for song in songs if (length := song_seconds(song)) is not None}
    kinds = {song.key: (song.is_full, song.semitones != 0) for song in songs}
    costs = {kind: _measure(setup, full=kind[0], shifted=kind[1]) for kind in sorted(set(kinds.values()))}
    work = sum(seconds.get(key, 0.0) * costs[kind] for key, kind in kinds.items())
    segments = sum(ceil(length / setup.config.segment.max_seconds) for length in seconds.values())
    total, spec = sum(seconds.values()), setup.base.spec
    text_bytes = (TEXT_STATES + LYRIC_ROWS * spec.has_lyric_rows) * spec.text_width * HALF_BYTES
    return BuildEstimate(
        songs=len(songs),
        unreadable=len(songs) - len(seconds),
        hours=total / 3600,
        shards=ceil(segments / setup.config.shard_samples),
        gigabytes=(total * bytes_per_second(setup.config, spec) + segments * text_bytes) / 1e9,
        hours_of_work=work / _lanes(setup.devices, workers) / 3600,
        workers=workers,
    )


def _lanes(devices: Sequence[str], workers: int) -> int:
    """Workers that do not wait for one another: those of one GPU share it."""
    return workers if tuple(devices) == ("cpu",) else min(workers, len(devices))


def describe(found: BuildEstimate) -> str:
    """An estimate for people."""
    unreadable = f" ({found.unreadable} cannot be read)" if found.unreadable else ""
    workers = f"{found.workers} worker{'s' if found.workers > 1 else ''}"
    lines = [
        f"{found.songs} songs to encode{unreadable}, {found.hours:.2f} hours of audio",
        f"shards: about {found.shards}, {found.gigabytes:.3f} GB",
        f"time: about {_duration(found.hours_of_work)} with {workers}, as measured on {MEASURED_SECONDS:g} s of noise",
    ]
    if found.rejected:
        key, why = next(iter(found.rejected.items()))
        songs = f"{len(found.rejected)} song{'s' * (len(found.rejected) > 1)}"
        lines.append(f"rejected: {songs}; the first, {key}: {why}")
    return "\n".join([*lines, *listed(found.unused)])


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{ceil(hours * 60)} min"


def _measure(setup: EncodeSetup, *, full: bool, shifted: bool) -> float:
    """Seconds of work for a second of music; of two runs the second counts, for the first also opens and warms up."""
    if full and setup.separator is None:
        return 0.0  # such songs are rejected at once
    stems = StemsConfig(max_leak_db=0.0, swapped="keep")  # nobody knows what a separator takes out of noise
    config = setup.config.model_copy(update={"min_vocal_activity": 0.0, "stems": stems})
    encoder = replace(setup, config=config).open(setup.devices[0])
    rate_hz = setup.base.spec.latents.sample_rate_hz
    noise = np.random.default_rng(0).normal(0, 0.1, (2, round(MEASURED_SECONDS * rate_hz))).astype(np.float32)
    with TemporaryDirectory() as folder, torch_threads(setup.config.threads_per_worker):
        mix, vocal = Path(folder) / "mix.wav", Path(folder) / "vocal.wav"
        for path in (mix, vocal):
            write_audio(path, noise, rate_hz)
        files: dict[Part, Path] = {"mix": mix} if full else {"mix": mix, "vocal": vocal}
        song = SongFiles("measured", "measured", files, NO_PROMPT, NO_LYRICS, has_prompt=True, semitones=int(shifted))
        _encode(encoder, song)
        started = time.perf_counter()
        _encode(encoder, song)
        return (time.perf_counter() - started) / MEASURED_SECONDS


def _encode(encoder: SongEncoder, song: SongFiles) -> None:
    with encoder.prepare(song) as prepared:
        for number in range(len(prepared.segments)):
            encoder.encode(prepared, number)

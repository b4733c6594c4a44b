"""What a folder of shards holds, as a table for people or as JSON for programs."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from common.presets import described_preset, preset_on
from shards.manifest import Manifest, SegmentEntry
from shards.reader import read_manifest


def summary(folder: Path) -> dict[str, Any]:
    """Totals, fingerprint and every song, as plain JSON values. Raises UserError where there is no manifest."""
    return _summary(read_manifest(folder))


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint.digest,
        "targets": list(manifest.targets),
        "vocal_lufs": manifest.vocal_lufs,
        "shards": len(manifest.shards),
        **manifest.totals.model_dump(mode="json"),
        "lead_sheets": sum(song.lead_sheet for shard in manifest.shards for song in shard.songs),
        "vocal_features": sum(song.vocal_features for shard in manifest.shards for song in shard.songs),
        "preset": preset_on(manifest.families(), _family(manifest)),
        "per_song": [_song_row(key, segments) for key, segments in _by_song(manifest).items()],
    }


def table(folder: Path) -> str:
    """The same as `summary`, in columns. Raises UserError where there is no manifest."""
    manifest = read_manifest(folder)
    found = _summary(manifest)
    songs = found["per_song"]
    width = max(len(song["key"]) for song in songs)
    lines = [f"{'song':{width}}  segments   seconds  vocal LUFS"]
    lines += [
        f"{song['key']:{width}}  {song['segments']:8d}  {song['seconds']:8.1f}  {_level(song['vocal_lufs']):>10}"
        for song in songs
    ]
    lines += [
        f"{found['songs']} songs, {found['segments']} segments, {found['seconds'] / 3600:.2f} hours, "
        f"{found['bytes'] / 1e6:.1f} MB in {found['shards']} shards; targets {', '.join(found['targets']) or 'none'}; "
        f"vocals at {_level(found['vocal_lufs'])} LUFS; fingerprint {found['fingerprint'][:8]}",
        f"lead sheets: of {found['lead_sheets']} of {found['songs']} songs (KEY_lead_sheet.txt beside a song)",
        f"features of the vocal: of {found['vocal_features']} of {found['songs']} songs (--set vocal_features=true)",
        f"{described_preset(manifest.families(), _family(manifest))} (train run --config {found['preset']})",
    ]
    return "\n".join(lines)


def _family(manifest: Manifest) -> str | None:
    return manifest.base.family if manifest.base else None


def _by_song(manifest: Manifest) -> dict[str, list[SegmentEntry]]:
    songs = defaultdict[str, list[SegmentEntry]](list)
    for shard in manifest.shards:
        for segment in shard.segments:
            songs[segment.song].append(segment)
    return songs


def _song_row(key: str, segments: list[SegmentEntry]) -> dict[str, Any]:
    levels = [segment.vocal_lufs for segment in segments if segment.vocal_lufs is not None]
    return {
        "key": key,
        "segments": len(segments),
        "seconds": sum(segment.seconds for segment in segments),
        "vocal_lufs": sum(levels) / len(levels) if levels else None,
    }


def _level(lufs: float | None) -> str:
    return "-" if lufs is None else f"{lufs:.1f}"

"""How shards stand to the folder of songs: what is fresh, stale, missing, gone or rejected, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.building.augmented import augmented
from prep.building.build import equip, fingerprint_of, manifest_of
from prep.building.cache import BuildCache
from prep.building.identity import as_before
from prep.building.jobs import EncodeSetup
from prep.building.plan import Plan, plan_build
from prep.config import PrepConfig
from prep.sources.remarks import listed, say_remarks
from prep.sources.scan import scan
from shards.lock import BUILD_FOLDER
from shards.reader import read_rejections

REBUILD = "prep build-shards --rebuild makes it anew"
REWORD = "prep build-shards makes its texts anew"
ADD = "prep build-shards adds them"
NAMED = {
    "stale": "",
    "missing": "",
    "gone": ", still in the shards (--prune)",
    "rejected": "",
    "noted": ", in the shards with stems that were mended, or a silent channel",
}
"""What is named song by song, and what is said of all."""


@dataclass(frozen=True)
class Survey:
    """What a build would do, and with what."""

    plan: Plan
    setup: EncodeSetup
    unused: tuple[str, ...]
    """Files of the folder that nobody would use."""


def survey(
    raw: Path, out: Path, config: PrepConfig, *, checkpoint: str, devices: Sequence[str], ssl_folder: Path | None
) -> Survey:
    """What a build with these settings would do; writes nothing.

    Raises UserError where songs or networks are not there.
    """
    found = scan(raw)
    say_remarks(found)
    older = manifest_of(out)
    config = as_before(config, older)
    setup = equip(found, config, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder)
    songs = augmented(found, config, older)
    return Survey(
        plan_build(songs, raw, fingerprint_of(setup), older, BuildCache(out / BUILD_FOLDER)), setup, found.unused
    )


def status(out: Path, plan: Plan, unused: Sequence[str] = ()) -> dict[str, Any]:
    """Every song by what it is, each with the reason why, and files that nobody used, as plain JSON values."""
    rejected = {row.key: f"{row.reason}: {row.detail}" for row in read_rejections(out)}
    new = {hashed.song.key for hashed in plan.new}
    rejected = {key: why for key, why in rejected.items() if key in new}
    rejected |= {row.key: f"{row.reason}: {row.detail}" for row in plan.rejections}
    stale = {hashed.song.key: f"features of its vocal are missing; {ADD}" for hashed in plan.featureless}
    stale |= {hashed.song.key: f"its prompt, lyrics or lead sheet changed; {REWORD}" for hashed in plan.reworded}
    if plan.text_changes or plan.sound_changes:
        changes = "; ".join((*plan.sound_changes, *plan.text_changes))
        why = f"{changes}; {REBUILD if plan.sound_changes else REWORD}"
        stale |= {hashed.song.key: why for hashed in (*plan.fresh, *plan.reworded)}
    stale |= {hashed.song.key: f"its audio changed; {REBUILD}" for hashed in plan.changed}
    entries = {} if plan.older is None else plan.older.songs()
    return {
        "fresh": [hashed.song.key for hashed in plan.fresh if hashed.song.key not in stale],
        "stale": dict(sorted(stale.items())),
        "missing": sorted(new - rejected.keys()),
        "gone": list(plan.gone),
        "rejected": dict(sorted(rejected.items())),
        "noted": {key: " ".join(entry.notes) for key, entry in sorted(entries.items()) if entry.notes},
        "unused": list(unused),
    }


def lines(found: dict[str, Any]) -> str:
    """The same for people: what is fresh is counted, all else is named."""
    shown = [f"fresh: {len(found['fresh'])}"]
    for name, note in NAMED.items():
        songs = found[name]
        shown.append(f"{name}: {len(songs)}{note if songs else ''}")
        shown += [f"  {key}: {songs[key]}" if isinstance(songs, dict) else f"  {key}" for key in songs]
    return "\n".join([*shown, *listed(found["unused"])])

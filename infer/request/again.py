"""An earlier take of which a region is made anew: what `--again TAKE.json --from 12 --to 20` names.

What such a request leaves open is as it was for that take, but for the seed.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.audio.decode import AUDIO_SUFFIXES
from common.config import check_config, read_json
from common.errors import UserError
from common.latents import LatentLayout
from common.progress import say
from infer.audio.reference import ReferenceRecord
from infer.audio.splice import Region
from infer.request.record import GenerationRecord, StyleRecord
from infer.request.request import GenerationRequest

SHORTEST_FRAMES = 4
"""Of a region; in fewer latent frames there is no room for music between two cross-fades."""


@dataclass(frozen=True)
class EarlierTake:
    """A take as its record tells it, and which part of it is not to stay."""

    path: Path  # of its record
    record: GenerationRecord
    region: Region

    @property
    def sound(self) -> Path:
        """Its accompaniment."""
        name = self.record.results[0].accompaniment
        assert name is not None
        return self.path.with_name(name)


def earlier_take(request: GenerationRequest) -> EarlierTake | None:
    """The take that a request names; None where it names none.

    Raises UserError for one that is not there, that was not made alone or holds the voice, and for a region that is
    none of it.
    """
    path, start, end = request.again, request.again_from, request.again_to
    if path is None:
        if (start, end) != (None, None):
            raise UserError("--from and --to: of which take? Name its record with --again TAKE.json.")
        return None
    if start is None or end is None:
        raise UserError(f"--again {path}: from where to where? Give --from and --to, in seconds.")
    if not path.is_file() or path.suffix.lower() in AUDIO_SUFFIXES:
        what = "a sound, not a record" if path.is_file() else "no such record"
        raise UserError(f"{path}: {what}. Name the .json that lies beside a result of infer generate.")
    record = check_config(GenerationRecord, read_json(path), str(path))
    if len(record.results) != 1:
        raise UserError(
            f"{path}: it tells of {len(record.results)} results. Make the one to change alone, with its --seed, and "
            "name its record."
        )
    if record.results[0].accompaniment is None:
        raise UserError(f"{path}: its adapter makes whole mixes, in which no part can be kept as it is.")
    take = EarlierTake(path, record, Region(start, end))
    if not take.sound.is_file():
        raise UserError(f"{take.sound}: no such file, and {path.name} is its record. Put it back.")
    seconds = record.samples / record.rate_hz
    if not 0 <= start < end <= seconds:
        whole = math.floor(1000 * seconds) / 1000  # never more than there is
        raise UserError(
            f"{path}: from {start:g} to {end:g} s is no part of it. Take a start below the end, both within its "
            f"{whole:g} s."
        )
    return take


def check_region(take: EarlierTake, latents: LatentLayout) -> None:
    """Raises UserError for a region of less than SHORTEST_FRAMES."""
    seconds, shortest = take.region.end - take.region.start, SHORTEST_FRAMES / latents.frames_per_second
    if seconds < shortest:
        raise UserError(f"{take.path}: a region of {seconds:.2f} s is too short; take {shortest:.2f} s or more.")


def with_record(request: GenerationRequest, take: EarlierTake) -> GenerationRequest:
    """The request with what it leaves open taken from the take's record, and the next seed.

    The sampler's settings are left to resolve_settings, words and lead sheet to read_inputs.
    Raises UserError for a file of the record that is no longer there.
    """
    record, settings = take.record, take.record.settings
    recorded: dict[str, Any] = {
        "checkpoint_dir": record.checkpoint_dir,
        "prompt": record.prompt,
        "lyrics_language": record.lyrics_language,
        "mixdown_vocal_db": settings.mixdown.vocal_db,
        "mixdown_peak_dbfs": settings.mixdown.peak_dbfs,
        "seed": record.results[0].seed + 1,
    }
    if record.adapters:
        recorded |= {"ref_strength": settings.ref_strength}
    if record.adapters and not request.adapters:
        recorded |= {"adapters": tuple(_there(take, one.folder, "--adapter") for one in record.adapters)}
        recorded |= {"lora_weights": settings.lora_weights}
    if request.vocal is None and request.shards is None:
        recorded |= _vocal(take)
    if record.style is not None and request.style_lora is None:
        recorded |= {"style_lora": _there(take, record.style.file, "--style-lora"), "style_weight": record.style.weight}
    if record.reference is not None and settings.blend is not None and request.blend is None:
        recorded |= {"blend": _there(take, record.reference.file, "--blend"), **settings.blend.model_dump()}
    return replace(request, **{name: value for name, value in recorded.items() if _is_open(getattr(request, name))})


def _is_open(value: Any) -> bool:
    return value is None or value is False or value == ()


def _vocal(take: EarlierTake) -> dict[str, Any]:
    vocal = take.record.vocal
    if vocal.file is not None:
        return {"vocal": _there(take, vocal.file, "--vocal")}
    assert vocal.shards is not None, "a record names one of the two"
    return {"shards": _there(take, vocal.shards, "--shards and --key"), "key": take.record.key}


def _there(take: EarlierTake, recorded: str, flag: str) -> Path:
    """A path that the record names. Raises UserError where nothing is there any more."""
    path = Path(recorded)
    if not path.exists():
        raise UserError(f"{take.path}: it names {recorded}, which is not there. Say where it is now with {flag}.")
    return path


def check_length(take: EarlierTake, samples: int) -> None:
    """Raises UserError unless a vocal is as long, at the rate of results, as the take's."""
    if samples != take.record.samples:
        lengths = f"{take.record.samples / take.record.rate_hz:.3f} s, this one has {samples / take.record.rate_hz:.3f}"
        raise UserError(f"{take.path}: its vocal had {lengths} s. Give the vocal that it was made for with --vocal.")


def _sha256(file: ReferenceRecord | StyleRecord | None) -> str | None:
    return None if file is None else file.sha256


def say_changes(take: EarlierTake, record: GenerationRecord) -> None:
    """Say so where the region is made from other files than the take."""
    before = take.record
    changed = {
        "vocal": before.vocal.sha256 != record.vocal.sha256,
        "adapters": [one.sha256 for one in before.adapters] != [one.sha256 for one in record.adapters],
        "base model": before.base_fingerprint != record.base_fingerprint,
        "reference": _sha256(before.reference) != _sha256(record.reference),
        "style LoRA": _sha256(before.style) != _sha256(record.style),
    }
    if names := [name for name, is_changed in changed.items() if is_changed]:
        say(f"{take.path}: the region is made with another {' and '.join(names)} than the rest of the take.")

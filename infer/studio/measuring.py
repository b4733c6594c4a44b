"""How a take stands beside its vocal and the lead sheet that it follows, each figure with its null (docs/studio.md)."""

from pathlib import Path
from typing import Any

import numpy as np

from common.audio.wave import loudness_lufs, read_audio, stereo_at
from common.music.notation import read_lead_sheet
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import estimate_key, measure_harmony
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.rhythm import beat_f, beat_f_off_phase
from infer.evaluate.measures.sheet import beats_within
from infer.studio.folders import StoredTake, TakeMeasures


def measure_loudness(take: StoredTake) -> TakeMeasures:
    """Its loudness alone, which a page needs to play it. Raises UserError where it cannot be read."""
    audio = read_audio(take.sound)
    lufs = loudness_lufs(audio.samples, audio.rate_hz)
    return TakeMeasures(lufs=lufs if np.isfinite(lufs) else None)


def measure_take(take: StoredTake, vocal: Clip, other: Clip | None) -> TakeMeasures:
    """How a take stands beside its vocal, and beside that of another session, where there is one.

    Of what holds the voice itself nothing is said but its loudness.
    """
    loudness = measure_loudness(take)
    if take.has_voice:
        return loudness
    band = clip_of(take.sound)
    return loudness.model_copy(
        update={
            "key": estimate_key(band),
            "rank": measure_harmony(vocal, band).rank,
            "leak": fine_structure_excess(vocal.mono, band.mono),
            "other_rank": None if other is None else measure_harmony(other, band).rank,
            "other_leak": None if other is None else fine_structure_excess(other.mono, band.mono),
            **_time(take, band),
        }
    )


def _time(take: StoredTake, band: Clip) -> dict[str, Any]:
    """Tempo and beats of a band against those that its lead sheet has; nothing where it follows none."""
    record = take.record
    sheet = None if record.lead_sheet is None else read_lead_sheet(record.lead_sheet)
    if sheet is None or sheet.bpm is None:
        return {}
    beats = beats_within(sheet, record.samples / record.rate_hz)
    return {
        "tempo": band.pulse.tempo_bpm,
        "sheet_tempo": sheet.bpm,
        "beats": beat_f(beats, band.pulse.beats),
        "chance_beats": beat_f_off_phase(beats, band.pulse.beats),
    }


def clip_of(path: Path) -> Clip:
    """Raises UserError where a file cannot be read."""
    return Clip(stereo_at(read_audio(path), MEASURED_RATE_HZ))

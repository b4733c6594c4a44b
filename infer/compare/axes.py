"""What raters score: the fields of a sheet, from which the page and the statistics take their axes."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from common.config import Config

Score = Annotated[int, Field(ge=1, le=5)]


@dataclass(frozen=True)
class RatingAxis:
    """How the page asks for a score, and what 1, 3 and 5 mean; 5 is best on each."""

    title: str
    low: str
    middle: str
    high: str


class Scores(Config):
    """One sheet's scores; null is not rated."""

    audio_quality: Annotated[
        Score | None, RatingAxis("Audio quality", "noisy, falls apart", "acceptable", "clear, professional")
    ] = None
    vocal_alignment: Annotated[
        Score | None,
        RatingAxis("Fits the vocal", "nothing to do with it", "in step here and there", "in step throughout"),
    ] = None
    prompt_adherence: Annotated[Score | None, RatingAxis("Follows the prompt", "ignores it", "in part", "entirely")] = (
        None
    )
    musicality: Annotated[
        Score | None, RatingAxis("Musicality", "clashing, stumbling", "can be listened to", "natural, moving")
    ] = None
    vocal_leakage: Annotated[
        Score | None, RatingAxis("Voice left in the band", "a great deal", "a trace", "none at all")
    ] = None


AXES: dict[str, RatingAxis] = {
    name: next(note for note in field.metadata if isinstance(note, RatingAxis))
    for name, field in Scores.model_fields.items()
}
"""By their names in a sheet."""

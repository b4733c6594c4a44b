"""KEY_prompt.txt for the songs of a folder that have none, of what can be measured."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.music.measured_tags import SongMeasures, tags_from
from common.music.measures import RATE_HZ, find_band_sound, find_key, find_register, find_tempo, onset_strength
from common.texts.tags import spelt
from prep.captions.beside import Made, SongText, TextWriter
from prep.captions.tagger import Tagger, TaggerFinding
from prep.captions.waves import waves_of
from prep.sources.scan import SongFiles

MOST_SECONDS = 240
"""So much of a song is measured, from its start."""


@dataclass(frozen=True)
class Caption(SongText):
    """A song's prompt, or why it gets none."""

    tags: tuple[str, ...] = ()
    measures: SongMeasures | None = None
    detail: str = ""
    """Why the song cannot be read."""
    tagger: TaggerFinding | None = None
    """What a tagger heard, where one was asked."""

    @property
    def line(self) -> str:
        """Its tags, or why there are none."""
        return spelt(self.tags) if self.tags else self.detail or "nothing is sure"


def caption_songs(
    raw: Path, *, overwrite: bool = False, dry_run: bool = False, tagger: Tagger | None = None
) -> list[Caption]:
    """Write the prompts that are missing below `raw`, as TextWriter.write does, with what a tagger hears."""
    make = partial(_made, tagger=tagger)
    return TextWriter("prompt", "caption", Caption, make, "detail", overwrite=overwrite, dry_run=dry_run).write(raw)


def _made(song: SongFiles, tagger: Tagger | None) -> Made:
    measures = measure_song(song)
    heard = None
    if tagger is not None:
        waves = waves_of(song, tagger.rate_hz, most_seconds=MOST_SECONDS)
        heard = tagger.hear(waves.band)
    tags = tuple(dict.fromkeys((*(heard.tags if heard else ()), *tags_from(measures))))
    notes = {"tags": tags, "measures": measures, "tagger": heard}
    return Made(f"{spelt(tags)}\n" if tags else "", "unsure", notes)


def measure_song(song: SongFiles) -> SongMeasures:
    """Measures of a song: of its band where stems tell it, else of its mix.

    Raises UserError for a file that cannot be read.
    """
    waves = waves_of(song, RATE_HZ, most_seconds=MOST_SECONDS)
    strength = onset_strength(waves.band)
    return SongMeasures(
        is_mix=song.is_full,
        tempo=find_tempo(strength),
        key=find_key(waves.whole),
        sound=find_band_sound(waves.band, strength),
        register=None if waves.vocal is None else find_register(waves.vocal),
    )

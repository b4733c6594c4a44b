"""An output: what one model made of one sample, with its pictures and loudness, and a card that says it is whole."""

from pathlib import Path

import numpy as np

from common.audio.wave import loudness_lufs, read_audio, stereo_at
from common.config import Config, check_config, read_json
from common.files import whole_file
from infer.audio.pictures import MEASURED_RATE_HZ, write_mel_picture, write_wave_picture

CARD = "take.card"
"""JSON, written last. No key of a sample can give a file this name."""


class Sound(Config):
    """A clip beside its card, by the names of its files."""

    audio: str
    wave: str
    """Picture of its waveform."""
    mel: str
    """Picture of its log-mel."""
    seconds: float
    lufs: float | None
    """Integrated loudness; null for silence."""


class Output(Config):
    """A card. A vocal has one too, with itself as the mix."""

    order: str
    """Hash of all that the output depends on."""
    record: str | None = None
    """The generation's record."""
    band: Sound | None = None
    """Null for an adapter that makes whole mixes."""
    mix: Sound

    @property
    def files(self) -> list[str]:
        sounds = [self.mix, self.band] if self.band else [self.mix]
        named = [self.record] if self.record else []
        return named + [name for sound in sounds for name in (sound.audio, sound.wave, sound.mel)]


def read_output(folder: Path, order: str) -> Output | None:
    """The output in a folder; None where there is none, where another was ordered, or where a file has gone."""
    card = folder / CARD
    if not card.is_file():
        return None
    output = check_config(Output, read_json(card), str(card))
    return output if output.order == order and all((folder / name).is_file() for name in output.files) else None


def write_output(folder: Path, output: Output) -> None:
    """Write the card of an output whose files are written."""
    with whole_file(folder / CARD) as partial:
        partial.write_text(output.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")


def describe(path: Path) -> Sound:
    """Measure an audio file and draw its pictures beside it."""
    audio = read_audio(path)
    lufs = loudness_lufs(audio.samples, audio.rate_hz)
    wave = stereo_at(audio, MEASURED_RATE_HZ)
    pictures = {kind: f"{path.stem}_{kind}.png" for kind in ("wave", "mel")}
    write_wave_picture(path.with_name(pictures["wave"]), wave)
    write_mel_picture(path.with_name(pictures["mel"]), wave)
    return Sound(audio=path.name, seconds=audio.seconds, lufs=None if np.isinf(lufs) else lufs, **pictures)

"""Songs to train on and songs to judge with, as files and as shards. Their prompts say who plays, not in which key.

M audio samples at 22.05 kHz; N songs, C latent channels, H latent rows, T latent frames.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.audio.disk_wave import DiskWave
from common.audio.wave import read_audio, stereo_at, write_audio
from common.bases import ACE_STEP_1
from common.files import whole_file
from common.music.lead_sheet import LeadSheet
from common.progress import progress
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import ANALYSIS_RATE_HZ, Clip
from models.acestep1.text.lyric_tokens import INSTRUMENTAL
from models.harmony.trained import shipped_harmoniser
from models.separator import Separator, find_separator, open_separator
from prep.building.build import build_shards
from prep.config import PrepConfig, SeparatorConfig, StemsConfig, TrimConfig
from prep.made_up.folder import write_song, write_true_sheet
from prep.made_up.melody import compose
from prep.made_up.render import render_song, song_key
from prep.made_up.truth import SongTruth, tell_truth, untold
from prep.made_up.world import draw_world
from recipe.flow import tags_of
from recipe.objectives.settings import Vocals
from shards.reader import read_song
from shards.schema import Sample
from train.data.plan import seeded
from train.loop.validation import derangement

BLEED_DB = (-30.0, -10.0)
"""Range of the gain of another song's band under a vocal, uniform."""


def untold_band(prompt: str) -> str:
    """The tags of a song's accompaniment without tempo, key and mode."""
    return untold(tags_of(prompt, "inst"))


def write_songs(folder: Path, seeds: Sequence[int], seconds: float) -> None:
    """Render every song that `folder` lacks, as stems with texts that tell nothing of tempo, key, mode and sections.

    Their lead sheets, which tell it all, lie beside them: only an arm that trains with them sees them.
    """
    missing = [seed for seed in seeds if not (folder / f"{song_key(seed)}_mix.flac").is_file()]
    with progress(len(seeds), folder.name, "songs", done=len(seeds) - len(missing)) as done:
        for seed in missing:
            song = render_song(seed, seconds)
            texts = {"prompt": untold_band(song.truth.prompt), "lyrics": INSTRUMENTAL}
            write_song(folder, replace(song, truth=song.truth.model_copy(update=texts)), form="stems")
            done.update()
    for seed in seeds:
        if not (folder / f"{song_key(seed)}_lead_sheet.txt").is_file():
            write_true_sheet(folder, song_key(seed), truth_of(seed, seconds))


def truth_of(seed: int, seconds: float) -> SongTruth:
    """What is true of a song, without a note of it rendered."""
    world = draw_world(seed, seconds)
    return tell_truth(world, compose(world))


def write_variants(stems: Path, out: Path, seeds: Sequence[int], vocals: Vocals, bundle: Path) -> None:
    """The songs of a folder of stems with other vocals, as far as `out` lacks them."""
    missing = [seed for seed in seeds if not (out / f"{song_key(seed)}_lyrics.txt").is_file()]
    separator = _open_separator(bundle) if missing and vocals == "separated_bleed" else None
    with progress(len(seeds), out.name, "songs", done=len(seeds) - len(missing)) as done:
        for seed in missing:
            if separator is not None:
                _write_bleeding(stems, out, seed, separator, other=seeds[(seeds.index(seed) + 1) % len(seeds)])
            elif vocals == "half_separated" and seed % 2:
                _copy(stems, out, seed, {"vocal.flac": "_vocal.flac", "inst.flac": "_inst.flac"})
            else:
                _copy(stems, out, seed, {"mix.flac": ".flac"})
            _copy(stems, out, seed, {name: f"_{name}" for name in ("lead_sheet.txt", "prompt.txt", "lyrics.txt")})
            done.update()


def _copy(stems: Path, out: Path, seed: int, names: Mapping[str, str]) -> None:
    for name, end in names.items():
        with whole_file(out / f"{song_key(seed)}{end}") as partial:
            shutil.copyfile(stems / f"{song_key(seed)}_{name}", partial)


def _open_separator(bundle: Path) -> Separator:
    files = find_separator("auto", bundle)
    assert files is not None
    return open_separator(files, torch.device("cpu"), overlap=SeparatorConfig().overlap)


def _write_bleeding(stems: Path, out: Path, seed: int, separator: Separator, *, other: int) -> None:
    """A song's separated vocal over another song's band, made softer at random, and what the separator left of it."""
    rate_hz = ACE_STEP_1.latents.sample_rate_hz
    mix, band = (
        stereo_at(read_audio(stems / f"{song_key(one)}_{part}.flac"), rate_hz)
        for one, part in ((seed, "mix"), (other, "inst"))
    )
    with DiskWave(rate_hz) as wave:
        vocal = np.concatenate(list(separator.vocal(wave.extend([mix]))), axis=1)
    gain_db = torch.empty(1).uniform_(*BLEED_DB, generator=seeded("objectives", "bleed", seed)).item()
    bleeding = vocal + 10 ** (gain_db / 20) * band[:, : vocal.shape[1]]
    for part, sound in (("vocal", bleeding), ("inst", mix - vocal)):
        write_audio(out / f"{song_key(seed)}_{part}.flac", sound.astype(np.float32), rate_hz, subtype="PCM_16")


def make_shards(songs: Path, out: Path, bundle: Path, *, seconds: float) -> None:
    """Encode what `out` lacks. No silence is trimmed, so that a judged song and its truth begin together, and no stem
    is turned away for what bleeds into it."""
    as_given = StemsConfig(max_leak_db=0.0, swapped="keep")
    config = PrepConfig(targets=("inst",), trim=TrimConfig(keep_seconds=seconds), stems=as_given)
    build_shards(songs, out, config, checkpoint=str(bundle), workers=1, devices=("cpu",), rebuild=False)


def true_bands(samples: Sequence[Sample]) -> Tensor:
    """Latents [N, C, H, T] of the accompaniments of songs of one length."""
    return torch.from_numpy(np.stack([sample.targets["inst"] for sample in samples])).float()


@dataclass(frozen=True)
class JudgedSongs:
    """The songs that judge, all of one length."""

    samples: tuple[Sample, ...]
    truths: tuple[SongTruth, ...]
    folder: Path
    """Of their files."""
    others: tuple[int, ...]
    """For each song the one whose vocal it gets in exchange."""

    @classmethod
    def read(cls, folder: Path, shards: Path, seeds: Sequence[int], seconds: float) -> "JudgedSongs":
        """Raises UserError where a song is not in the shards."""
        return cls(
            samples=tuple(read_song(shards, song_key(seed))[0] for seed in seeds),
            truths=tuple(truth_of(seed, seconds) for seed in seeds),
            folder=folder,
            others=tuple(derangement(len(seeds), seeded("objectives", "derangement"))),
        )

    def with_inferred_sheets(self, *, temperature: float = 0.0, seed: int = 0) -> "JudgedSongs":
        """The same songs with the lead sheets that the harmoniser infers from their vocals."""
        sheets = (
            self.inferred_sheet(number, temperature=temperature, seed=seed) for number in range(len(self.samples))
        )
        samples = [replace(one, lead_sheet=sheet) for one, sheet in zip(self.samples, sheets, strict=True)]
        return replace(self, samples=tuple(samples))

    def inferred_sheet(self, number: int, *, temperature: float = 0.0, seed: int = 0) -> LeadSheet:
        """What the shipped harmoniser makes of a song's vocal."""
        vocal = self.vocal(number)
        return shipped_harmoniser().lead_sheet(vocal, ANALYSIS_RATE_HZ, temperature=temperature, seed=seed)

    def vocal(self, number: int) -> np.ndarray:
        """float32 [M] at ANALYSIS_RATE_HZ."""
        return self._clip(number, "vocal").mono

    def band(self, number: int) -> Clip:
        """The true accompaniment."""
        return self._clip(number, "inst")

    def _clip(self, number: int, part: str) -> Clip:
        path = self.folder / f"{song_key(self.truths[number].seed)}_{part}.flac"
        return Clip(stereo_at(read_audio(path), MEASURED_RATE_HZ))

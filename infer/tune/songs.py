"""The songs that settings are tried on, and what a band for one of them is worth.

C latent channels, H latent rows, T latent frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from common.config import Config
from common.progress import say
from infer.band.inputs import check_shards, text_of_shards
from infer.band.session import Session
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.harmony import estimate_key, find_chords, key_score
from infer.evaluate.measures.leakage import fine_structure_excess
from infer.evaluate.measures.rhythm import beat_f
from infer.evaluate.measures.sets import frechet_distance
from infer.request.plan import GenerationPlan
from infer.request.text_inputs import TextInputs
from infer.request.vocal import VocalInput, vocal_from_shards
from infer.tune.space import Recommended
from models.flow.conditioning import frames_first
from models.harmony.trained import open_harmoniser
from models.protocols import LatentDecoder
from shards.reader import read_song
from shards.schema import Sample, Target


class SongScore(Config):
    """How a band fits its song; all but `leak` are shares in [0, 1], and 1 for the true band."""

    chords: float
    """Of the half seconds, how many have the true band's triad."""
    beats: float
    """F-measure of the beats within 70 ms against the true band's."""
    key: float
    """MIREX score of the key against the true band's."""
    leak: float
    """How much more of the vocal's fine structure stands in it than in the true band."""

    @property
    def fit(self) -> float:
        """How well it fits the song."""
        return (self.chords + self.beats + self.key) / 3


@dataclass(frozen=True)
class TunedSong:
    """A song of the shards: what a band is made from, and what it is measured by. All sound is decoded latents."""

    key: str
    vocal: VocalInput
    text: TextInputs
    sung: Clip
    true: Clip
    true_latents: Tensor  # [C, H, T]
    target: Target

    def score(self, band: Clip) -> SongScore:
        """Of a mix the vocal is a part, so that it cannot leak."""
        leak = 0.0
        if self.target == "inst":
            leak = fine_structure_excess(self.sung.mono, band.mono) - self._true_leak
        return SongScore(
            chords=float(np.mean(find_chords(band.chroma) == find_chords(self.true.chroma))),
            beats=beat_f(self.true.pulse.beats, band.pulse.beats),
            key=key_score(estimate_key(self.true), estimate_key(band)),
            leak=leak,
        )

    @cached_property
    def _true_leak(self) -> float:
        return fine_structure_excess(self.sung.mono, self.true.mono)


@dataclass(frozen=True)
class MadeBand:
    """A band for a song, and what it is worth."""

    latents: Tensor  # [C, H, T]
    score: SongScore


@dataclass(frozen=True)
class SongSet:
    """The songs, and the networks that play them."""

    plan: GenerationPlan
    session: Session
    songs: tuple[TunedSong, ...]

    @classmethod
    def read(cls, plan: GenerationPlan, session: Session, keys: Sequence[str]) -> "SongSet":
        """Raises UserError for shards that do not go with the adapter, and for a song that they do not hold."""
        assert plan.request.shards is not None
        check_shards(plan, plan.request.shards)
        decoder = session.decoder(plan.runtime)
        songs = [read_tuned_song(plan, session, decoder, key) for key in keys]
        without = sum(song.vocal.lead_sheet is None for song in songs)
        if plan.selection.takes_lead_sheet:
            say(f"lead sheets inferred from {len(songs) - without} of {len(songs)} decoded vocals")
        return cls(plan, session, tuple(songs))

    def bands(self, settings: Recommended) -> Iterator[MadeBand]:
        """One for each song, from noise that is the same for all settings."""
        changed = {"ref_strength": settings.reference_strength, "sampler": settings.sampler}
        plan = replace(self.plan, settings=self.plan.settings.model_copy(update=changed))
        for song in self.songs:
            (latents,) = self.session.draw(plan, song.vocal, song.text, shown=False)
            wave = self.session.decoder(plan.runtime).wave(latents, song.vocal.samples)
            yield MadeBand(latents, song.score(Clip(wave)))

    def distance(self, bands: Sequence[MadeBand]) -> float:
        """Frechet distance of the latent frames of a band for each song to those of the true bands."""
        made = [band.latents for band in bands]
        return frechet_distance(*(_frames(part) for part in (made, [song.true_latents for song in self.songs])))


def read_tuned_song(plan: GenerationPlan, session: Session, decoder: LatentDecoder, key: str) -> TunedSong:
    """A song of the shards of a plan. Its lead sheet is inferred from its vocal, as it is for a user's."""
    assert plan.request.shards is not None
    segments = read_song(plan.request.shards, key)
    vocal = vocal_from_shards(plan.request.shards, key, segments, decoder.layout.sample_rate_hz)
    sung = decoder.wave(vocal.latents, vocal.samples)
    if plan.selection.takes_lead_sheet:
        sheet = open_harmoniser(plan.selection.harmoniser).lead_sheet(sung, decoder.layout.sample_rate_hz)
        vocal = replace(vocal, lead_sheet=sheet if sheet.bars else None)
    target: Target = "inst" if plan.selection.card.output_type == "accompaniment" else "mix"
    true = _target(segments, target)
    return TunedSong(
        key=key,
        vocal=vocal,
        text=text_of_shards(plan, session, segments[0], vocal.record.seconds),
        sung=Clip(sung),
        true=Clip(decoder.wave(true, vocal.samples)),
        true_latents=true,
        target=target,
    )


def _target(segments: Sequence[Sample], target: Target) -> Tensor:
    latents = np.concatenate([segment.targets[target] for segment in segments], axis=-1)
    return torch.from_numpy(latents).float()


def _frames(bands: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([frames_first(band[None])[0] for band in bands]).double().numpy()

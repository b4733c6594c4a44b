"""Bands for the judged songs, drawn in batches as latents, and the gains of an adapter on these songs.

B songs, N all judged songs, C latent channels, H latent rows, T latent frames.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from common.audio.wave import resample
from common.bases import BaseSpec
from common.latents import LatentStatistics
from common.progress import progress
from infer.audio.pictures import MEASURED_RATE_HZ
from infer.evaluate.measures.clip import Clip
from infer.evaluate.measures.sets import frechet_distance
from models.adapters.adapter import Adapter, open_adapter, read_card
from models.flow.conditioning import frames_first
from models.flow.sampler import SamplerSettings, draw_noise, sample
from models.flow.sdedit import sdedit
from models.loading.checkpoint import TINY, open_transformer, part_hash
from models.protocols import Conditions, FlowNetwork, LatentDecoder
from recipe.objectives.settings import ObjectivesSettings, arm_of
from recipe.objectives.songs import JudgedSongs
from recipe.objectives.training import training_config
from shards.schema import Sample
from train.config import TrainingConfig
from train.data.clips import Batch, Choice, ClipMaker, Cut
from train.data.plan import seeded
from train.loop.module import AccompanimentModule, conditioning_of, encode
from train.loop.validation import Validation

JUDGING_SEED = 0
"""All adapters are asked with the same noise and the same exchange of vocals."""

ARM_OF_MODE = {"controlnet": "controlnet+lead_sheet", "image2image": "bridge_vp+lead_sheet"}
"""How songs are laid out for an adapter of a mode."""


@dataclass(frozen=True)
class SongBatch:
    """Songs to be accompanied: their conditions and noise, and the vocals that are given, their own or not."""

    batch: Batch
    vocal: Tensor  # [B, C, H, T] as the codec made them

    def conditions(self, transformer: FlowNetwork) -> tuple[Conditions, Conditions]:
        """Conditional and unconditional."""
        silent = {name: torch.zeros_like(getattr(self.batch, name)) for name in ("text", "lyric_ids", "lyric_mask")}
        return encode(transformer, self.batch), encode(transformer, replace(self.batch, **silent))


BandSource = Callable[[SongBatch], Tensor]
"""Latents [B, C, H, T] of bands."""


def song_batches(
    judged: JudgedSongs,
    vocals: Sequence[int],
    config: TrainingConfig,
    statistics: LatentStatistics,
    spec: BaseSpec,
    *,
    seed: int,
    size: int,
) -> Iterator[SongBatch]:
    """All judged songs, `size` at a time: song k with the vocal of song vocals[k], and noise that `seed` decides."""
    maker = ClipMaker(config, conditioning_of(config), statistics, spec)
    frames = judged.samples[0].meta.frames
    whole = Choice(Cut(0, frames, tag_order=0), config.accompaniment.default_strength)
    for start in range(0, len(vocals), size):
        songs = judged.samples[start : start + size]
        singers = [judged.samples[number] for number in vocals[start : start + size]]
        chosen = [whole] * len(songs)
        sung = maker.assemble(singers, chosen)
        noise = draw_noise([seeded("objectives", seed, song.meta.key) for song in songs], songs[0].vocal.shape)
        batch = replace(
            maker.without_noise(maker.assemble(songs, chosen)), source=maker.without_noise(sung).source, noise=noise
        )
        yield SongBatch(batch, sung.vocal.float())


def plain(transformer: FlowNetwork, sampler: SamplerSettings) -> BandSource:
    """Text2music, without any vocal."""
    return lambda songs: sample(transformer, *songs.conditions(transformer), songs.batch.noise, sampler)


def edited(transformer: FlowNetwork, sampler: SamplerSettings, strength: float) -> BandSource:
    """The baseline that needs no training."""
    return lambda songs: sdedit(
        transformer, *songs.conditions(transformer), songs.batch.noise, sampler, vocal=songs.vocal, strength=strength
    )


def adapted(transformer: FlowNetwork, adapter: Adapter, sampler: SamplerSettings) -> BandSource:
    """With an adapter, which is open in the transformer."""
    return lambda songs: sample(
        transformer,
        *songs.conditions(transformer),
        songs.batch.noise,
        sampler,
        objective=adapter.objective,
        source=songs.batch.source,
        conditioner=adapter.conditioner,
    )


@torch.no_grad()
def draw_all(draw: BandSource, batches: Iterator[SongBatch], count: int, *, what: str) -> Tensor:
    """[N, C, H, T] for as many songs as there are."""
    drawn = []
    with progress(count, what, "bands") as done:
        for songs in batches:
            drawn.append(draw(songs))
            done.update(len(songs.vocal))
    return torch.cat(drawn)


def bands_of(
    folder: Path,
    judged: JudgedSongs,
    decoder: LatentDecoder,
    settings: ObjectivesSettings,
    *,
    follow: Literal["own", "another's", "nothing"] = "own",
    seed: int = 0,
) -> list[Clip]:
    """Bands of an adapter of the tiny bundle for the judged songs, by the sampler that it recommends but its steps.

    They follow the vocal and lead sheet of each song, or those of the song that it is exchanged with, or nothing: then
    the adapter is left out. Noise is by `seed`.
    """
    transformer, card = open_transformer(TINY), read_card(folder)
    if follow == "nothing":
        source = plain(transformer, settings.sampler)
    else:
        base = part_hash(TINY, transformer.spec.parts.transformer)
        adapter = open_adapter(folder, transformer, weight=1.0, base_fingerprint=base)
        source = adapted(transformer, adapter, card.sampler.model_copy(update={"steps": settings.sampler.steps}))
    config = training_config(arm_of(ARM_OF_MODE[card.conditioning.mode]), settings, steps=1, seed=0)
    singers = judged.others if follow == "another's" else range(len(judged.samples))
    batches = song_batches(judged, singers, config, card.statistics, transformer.spec, seed=seed, size=settings.batch)
    drawn = draw_all(source, batches, len(singers), what=f"drawing after {follow}, seed {seed}")
    return [clip_of(band, decoder, song) for band, song in zip(drawn, judged.samples, strict=True)]


def clip_of(band: Tensor, decoder: LatentDecoder, song: Sample) -> Clip:
    """A song's band [C, H, T] as sound, as long as the song."""
    wave = decoder.wave(band, song.meta.samples)
    return Clip(resample(wave, decoder.layout.sample_rate_hz, MEASURED_RATE_HZ))


def distance(made: Tensor, true: Tensor) -> float:
    """Frechet distance of the latent frames of bands, both [N, C, H, T]: how unlike, whichever songs they fit."""
    return frechet_distance(*(frames_first(bands).flatten(0, 1).double().numpy() for bands in (made, true)))


def measure_gains(
    transformer: FlowNetwork, adapter: Adapter, judged: JudgedSongs, config: TrainingConfig
) -> dict[str, float]:
    """val/x0_gain, val/conditioning_gain and the like, on the judged songs."""
    asked = config.model_copy(update={"seed": JUDGING_SEED})
    maker = ClipMaker(asked, conditioning_of(asked), adapter.card.statistics, transformer.spec)
    validation = Validation({song.meta.song: song for song in judged.samples}, maker)
    module = AccompanimentModule(
        asked, transformer, adapter.conditioner, base_fingerprint=adapter.card.base_fingerprint
    )
    return validation(module).named()

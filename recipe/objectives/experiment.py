"""The comparison from songs to report. Each system with each seed is a unit, with a folder and a result of its own.

What is finished in the work folder is only read, so that a run that was stopped goes on where it was.
N judged songs, C latent channels, H latent rows, T latent frames.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from common.canonical import sha256_of
from common.config import Config, check_config, read_json
from common.files import whole_file
from common.progress import progress, say
from infer.evaluate.measures.clip import Clip
from models.adapters.adapter import open_adapter
from models.flow.sampler import SamplerSettings
from models.loading.checkpoint import open_decoder, open_transformer, part_hash, spec_of, variant_of
from models.protocols import LatentDecoder
from prep.made_up.render import song_key
from recipe.convolutions import lay_channels_last
from recipe.objectives.band_measures import BandMeasures, measure_band
from recipe.objectives.bands import (
    BandSource,
    SongBatch,
    adapted,
    clip_of,
    distance,
    draw_all,
    edited,
    measure_gains,
    plain,
    song_batches,
)
from recipe.objectives.report import ObjectivesReport, Result, summarise
from recipe.objectives.settings import (
    DEFAULT,
    UNTRAINED,
    LeadSheets,
    ObjectivesSettings,
    SongSettings,
    Vocals,
    arm_of,
    changed_sampler,
)
from recipe.objectives.songs import JudgedSongs, make_shards, true_bands, write_songs, write_variants
from recipe.objectives.training import Pace, measure_pace, placed, train, training_config
from shards.reader import read_manifest, read_song
from train.config import TrainingConfig
from train.fitting import claim, save_whole

ANCHORS = ("true", "codec")
"""The true accompaniments, and what codec and vocoder leave of them."""
RESULT_FILE = "result.json"


class Unit(Config):
    """One system with one seed: all that its result depends on."""

    system: str
    """One of ANCHORS or UNTRAINED, or the name of an arm."""
    parts: dict[str, str]
    """Hashes of the bundle's parts."""
    songs: SongSettings
    seed: int = 0
    sampler: SamplerSettings | None = None
    sdedit_strength: float | None = None
    exchange: bool = True
    judged_vocals: Vocals = "clean"
    lead_sheets: LeadSheets = Field(default="true", exclude_if=lambda kind: kind == "true")
    training: TrainingConfig | None = None
    training_vocals: Vocals = "clean"

    @property
    def name(self) -> str:
        return f"{self.system}-seed{self.seed}-{sha256_of(self.model_dump(mode='json'))[:8]}"


class Experiment:
    """All units over one bundle and one work folder."""

    def __init__(self, bundle: Path, work: Path, settings: ObjectivesSettings) -> None:
        self.bundle, self.work, self.settings = bundle, work, settings
        self.spec = spec_of(bundle)
        self.parts = {str(part): part_hash(bundle, part) for part in self.spec.files}

    def run(self) -> ObjectivesReport:
        """Every unit that is not finished, seed by seed, then the report over all."""
        self.make_songs()
        settings = self.settings
        found = {system: [self.result(self.unit(system, 0))] for system in ANCHORS}
        distances: dict[str, list[float]] = {}
        for seed in settings.seeds:
            for system in (*settings.untrained, *settings.arms):
                unit = self.unit(system, seed)
                found.setdefault(system, []).append(self.result(unit))
                distances.setdefault(system, []).append(self._distance(unit))
        (true,) = found["true"]
        systems = {
            system: summarise(
                results,
                true=true,
                default=found.get(settings.compared_with),
                distances=distances.get(system, ()),
                steps=self._steps(system),
            )
            for system, results in found.items()
        }
        return ObjectivesReport(
            songs=settings.songs.judged,
            seeds=settings.seeds,
            compared_with=settings.compared_with,
            training_seconds=None if settings.training_steps else settings.training_seconds,
            step_seconds={} if settings.training_steps else self.pace.step_seconds,
            distance_of_others=self._distance_of_others(),
            systems=systems,
        )

    def make_songs(self) -> None:
        """Songs and shards, as far as they are not there."""
        songs, settings = self.settings.songs, self.settings
        claim(self.work / "songs", songs)
        trained = [arm_of(arm).vocals for arm in settings.arms]
        for name, seeds, kinds in (
            ("training", songs.training_seeds, trained),
            ("judged", songs.judged_seeds, [settings.judged_vocals]),
        ):
            seconds = songs.lengths[name]
            write_songs(self._songs(name), seeds, seconds)
            for vocals in dict.fromkeys(("clean", *kinds)):
                if vocals != "clean":
                    write_variants(self._songs(name), self._songs(name, vocals), seeds, vocals, self.bundle)
                make_shards(self._songs(name, vocals), self._shards(name, vocals), self.bundle, seconds=seconds)

    def _songs(self, name: str, vocals: Vocals = "clean") -> Path:
        return self.work / "songs" / (name if vocals == "clean" else f"{name}-{vocals}")

    def _shards(self, name: str, vocals: Vocals = "clean") -> Path:
        return self.work / "shards" / self._songs(name, vocals).name

    @cached_property
    def judged(self) -> JudgedSongs:
        songs = self.settings.songs
        shards = self._shards("judged", self.settings.judged_vocals)
        return JudgedSongs.read(self._songs("judged"), shards, songs.judged_seeds, songs.lengths["judged"])

    @cached_property
    def _inferred(self) -> JudgedSongs:
        return self.judged.with_inferred_sheets()

    def _judged(self, unit: Unit) -> JudgedSongs:
        """The songs that judge, with the lead sheets that bands of a unit are drawn for."""
        return self.judged if unit.lead_sheets == "true" else self._inferred

    @cached_property
    def true_bands(self) -> Tensor:
        """Of the judged songs, as they were played."""
        keys = map(song_key, self.settings.songs.judged_seeds)
        return true_bands([read_song(self._shards("judged"), key)[0] for key in keys])

    @cached_property
    def pace(self) -> Pace:
        base, shards = self.parts[self.spec.parts.transformer], self._shards("training")
        return measure_pace(self.work, self.bundle, self.settings, shards=shards, base=base)

    @cached_property
    def decoder(self) -> LatentDecoder:
        decoder = open_decoder(self.bundle, torch.device("cpu"))
        for network in vars(decoder).values():
            if isinstance(network, nn.Module):
                lay_channels_last(network)
        return decoder

    @cached_property
    def sampler(self) -> SamplerSettings:
        """As upstream samples the bundle, but for its steps and what else the settings say."""
        upstream, wanted = SamplerSettings.of(self.spec.samplings[variant_of(self.bundle)]), self.settings.sampler
        return upstream.model_copy(update={"steps": wanted.steps} | wanted.model_dump(exclude_unset=True))

    def _steps(self, system: str) -> int | None:
        if system in (*ANCHORS, *UNTRAINED):
            return None
        return self.settings.training_steps or self.pace.steps(arm_of(system), self.settings.training_seconds)

    def unit(self, system: str, seed: int) -> Unit:
        """A system with a seed, under the settings of this experiment."""
        settings, steps = self.settings, self._steps(system)
        arm = arm_of(system) if steps else None
        return Unit(
            system=system,
            parts=self.parts,
            songs=settings.songs,
            seed=seed,
            sampler=None if system in ANCHORS else changed_sampler(self.sampler, arm.sampler if arm else ()),
            sdedit_strength=settings.sdedit_strength if system == "sdedit" else None,
            exchange=settings.exchange,
            judged_vocals="clean" if system in ANCHORS else settings.judged_vocals,
            training=training_config(arm, settings, steps=steps, seed=seed) if arm and steps else None,
            lead_sheets=arm.lead_sheets if arm else "true",
            training_vocals=arm.vocals if arm else "clean",
        )

    def folder(self, unit: Unit) -> Path:
        return self.work / "units" / unit.name

    def result(self, unit: Unit) -> Result:
        """What is found of a unit, unless it was found before."""
        path = self.folder(unit) / RESULT_FILE
        claim(path.parent, unit)
        if not path.is_file():
            say(f"unit {unit.name}")
            result = self._make(unit)
            with whole_file(path) as partial:
                partial.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
        return check_config(Result, read_json(path), str(path))

    def _make(self, unit: Unit) -> Result:
        if unit.system == "true":
            fits = [self._fit(number, self.judged.band(number)) for number in range(len(self.judged.truths))]
            return Result(own=tuple(fits))
        if unit.system == "codec":
            return Result(own=self._measure(self.true_bands, what="codec"))
        return self._make_adapted(unit) if unit.training else self._make_untrained(unit)

    def _make_untrained(self, unit: Unit) -> Result:
        assert unit.sampler is not None
        transformer = open_transformer(self.bundle)
        if unit.sdedit_strength is None:
            return Result(own=self._bands(unit, plain(transformer, unit.sampler), exchanged=False))
        own, exchanged = self._both(unit, edited(transformer, unit.sampler, unit.sdedit_strength))
        return Result(own=own, exchanged=exchanged)

    def _make_adapted(self, unit: Unit) -> Result:
        assert unit.training is not None
        assert unit.sampler is not None
        shards = self._shards("training", unit.training_vocals)
        config = placed(unit.training, shards=shards, logs=self.trainings(unit))
        folder, transformer = train(config, self.bundle), open_transformer(self.bundle)
        adapter = open_adapter(
            folder, transformer, weight=1.0, base_fingerprint=self.parts[self.spec.parts.transformer]
        )
        gains = measure_gains(transformer, adapter, self._judged(unit), config)
        own, exchanged = self._both(unit, adapted(transformer, adapter, unit.sampler))
        return Result(own=own, exchanged=exchanged, gains=gains)

    def trainings(self, unit: Unit) -> Path:
        """The room of a unit's training, which those share that differ in how they draw alone."""
        about = unit.model_dump(mode="json", include={"training", "training_vocals"})
        return self.work / "trainings" / sha256_of(about)[:16]

    def _both(self, unit: Unit, draw: BandSource) -> tuple[tuple[BandMeasures, ...], tuple[BandMeasures, ...]]:
        """Bands for the songs' own vocals, and for exchanged ones, if wanted."""
        own = self._bands(unit, draw, exchanged=False)
        return own, self._bands(unit, draw, exchanged=True) if unit.exchange else ()

    def _bands(self, unit: Unit, draw: BandSource, *, exchanged: bool) -> tuple[BandMeasures, ...]:
        """Draw a band for each song's own vocal or the exchanged one, unless that was done, and measure them."""
        name = "exchanged" if exchanged else "own"
        path, what = self._drawn(unit, name), f"{unit.system}, {name}"
        if not path.is_file():
            vocals = self.judged.others if exchanged else range(len(self.judged.truths))
            batches = self._batches(unit, vocals)
            save_whole({"bands": draw_all(draw, batches, len(vocals), what=f"drawing {what}")}, path)
        return self._measure(load_file(path)["bands"], what=what)

    def _drawn(self, unit: Unit, name: str) -> Path:
        return self.folder(unit) / f"{name}.safetensors"

    def _distance(self, unit: Unit) -> float:
        """How unlike the judged songs' true bands those are that were drawn for their own vocals."""
        return distance(load_file(self._drawn(unit, "own"))["bands"], self.true_bands)

    def _distance_of_others(self) -> float:
        """The same of true bands of as many songs that were trained on, where there are so many."""
        seeds = self.settings.songs.training_seeds[: self.settings.songs.judged]
        others = [read_song(self._shards("training"), song_key(seed))[0] for seed in seeds]
        return distance(true_bands(others), self.true_bands)

    def _batches(self, unit: Unit, vocals: Sequence[int]) -> Iterator[SongBatch]:
        config = unit.training or training_config(arm_of(DEFAULT), self.settings, steps=1, seed=unit.seed)
        statistics = read_manifest(self._shards("training", unit.training_vocals)).statistics
        assert statistics is not None
        return song_batches(
            self._judged(unit), vocals, config, statistics, self.spec, seed=unit.seed, size=self.settings.batch
        )

    def _measure(self, latents: Tensor, *, what: str) -> tuple[BandMeasures, ...]:
        """How the bands of all judged songs fit. latents [N, C, H, T]"""
        fits = []
        with progress(len(latents), f"measuring {what}", "bands") as done:
            for number, band in enumerate(latents):
                fits.append(self._fit(number, clip_of(band, self.decoder, self.judged.samples[number])))
                done.update()
        return tuple(fits)

    def _fit(self, number: int, band: Clip) -> BandMeasures:
        return measure_band(self.judged.truths[number], self.judged.vocal(number), band)

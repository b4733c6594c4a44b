"""The stages of the recipe of models/tiny15/, in order."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from common.bases import ACE_STEP_15
from common.config import Config
from models.acestep15.codec import OobleckCodec
from models.flow.sampler import SamplerSettings
from recipe.card import write_card
from recipe.corpus import CorpusSettings
from recipe.flow import LatentSongs, encode_songs
from recipe.measure import MeasureSettings, measure_round_trip, measure_text2music
from recipe.stages import Stages
from recipe.tiny15.bundle import silence_of, write_text_encoder, write_vae, write_variants
from recipe.tiny15.card import HEADER
from recipe.tiny15.flow import ENCODED, PromptedFlow, PromptedFlowSettings, train_prompted_flow
from recipe.tiny15.measure import round_trip_of, text2music_of
from recipe.tiny15.vae import VaeSettings, at_latents_rate, new_vae, train_vae

Stage = Literal["corpus", "vae", "latents", "flow", "round-trip", "text2music", "card", "publish"]
STAGES: tuple[Stage, ...] = get_args(Stage)
JUDGED = "acestep-v15-base"
"""The variant that draws the songs."""
PARTS = ACE_STEP_15.parts


class Tiny15Settings(Config):
    """Everything that the bundle depends on."""

    seed: int = 20250607
    corpus: CorpusSettings = CorpusSettings(songs=952, crop_songs=400)
    vae: VaeSettings = VaeSettings()
    flow: PromptedFlowSettings = PromptedFlowSettings()
    measure: MeasureSettings = MeasureSettings(sampler=SamplerSettings.of(ACE_STEP_15.samplings["base"]))


class Tiny15Recipe(Stages):
    """The stages in turn. A stage that needs a network of an earlier one reads it, or first trains it."""

    stages = STAGES

    def __init__(self, work: Path, settings: Tiny15Settings, *, out: Path, workers: int) -> None:
        super().__init__(work, settings.corpus, seed=settings.seed, out=out, workers=workers)
        self.device = torch.device("cpu")
        self.settings = settings

    @property
    def steps(self) -> Mapping[str, Callable[[], object]]:
        return {
            "corpus": self.make_corpus,
            "vae": lambda: self.vae,
            "round-trip": self._measure_round_trip,
            "latents": lambda: self.latents,
            "flow": lambda: self.flow,
            "text2music": self._measure_text2music,
            "card": self._write_card,
            "publish": self.publish,
        }

    @cached_property
    def vae(self) -> OobleckCodec:
        vae = self.new(new_vae)
        self.trained["vae"] = train_vae(self.work / "vae", vae, self.corpus, self.settings.vae, seed=self.seed)
        write_vae(self.bundle, vae)
        return vae

    @cached_property
    def latents(self) -> LatentSongs:
        vae = self.vae

        def encode(wave: np.ndarray) -> torch.Tensor:
            return vae.encode(torch.from_numpy(at_latents_rate(wave)))

        return encode_songs(self.work / "latents", encode, self.corpus, ENCODED)

    @cached_property
    def flow(self) -> PromptedFlow:
        _ = self.vae
        silence = silence_of(self.bundle)
        flow, folder = self.new(lambda: PromptedFlow(silence)), self.work / "flow"
        self.trained["flow"] = train_prompted_flow(folder, flow, self.latents, self.settings.flow, seed=self.seed)
        write_variants(self.bundle, flow.network)
        write_text_encoder(self.bundle, flow.text)
        return flow

    def _measure_round_trip(self) -> None:
        _ = self.vae
        round_trip = round_trip_of(self.bundle)
        self.note("round trip", [PARTS.codec], lambda: {"round trip": measure_round_trip(round_trip, self.corpus)})

    def _measure_text2music(self) -> None:
        _ = self.flow
        settings, parts = self.settings.measure, [PARTS.codec, PARTS.transformer, PARTS.text_encoder]
        make = text2music_of(self.bundle, self.bundle / JUDGED, settings.sampler)
        round_trip = round_trip_of(self.bundle)
        measure = partial(measure_text2music, round_trip, make, self.corpus, settings)
        self.note("text2music", parts, measure, variant=JUDGED)

    def _write_card(self) -> None:
        _ = self.flow
        measured = self.measured("round trip", "text2music")
        write_card(self.bundle, HEADER, self.settings, self.trained, measured, device=str(self.device))

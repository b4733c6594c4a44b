"""The stages of the recipe, in order. Each keeps its state below the work folder and goes on from there."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
from demucs.htdemucs import HTDemucs
from torch import nn

from common.bases import ACE_STEP_1
from common.config import Config
from common.errors import UserError
from common.files import whole_file
from common.progress import say
from models.acestep1.codec.codec import Codec
from models.acestep1.codec.vocoder import Vocoder
from models.device import default_device
from models.loading.checkpoint import part_hash
from recipe.bundle import write_codec, write_flow, write_separator, write_vocoder
from recipe.card import CARD_FILE, HEADER, write_card
from recipe.corpus import Corpus, CorpusSettings, make_corpus
from recipe.dcae import CodecSettings, new_codec, train_codec
from recipe.flow import FlowSettings, LatentSongs, TextConditionedFlow, encode_songs, train_flow
from recipe.measure import (
    MeasureSettings,
    Numbers,
    measure_round_trip,
    measure_separation,
    measure_text2music,
    measure_vocoder,
    round_trip_of,
    text2music_of,
)
from recipe.separator import SeparatorSettings, new_separator, train_separator
from recipe.vocoder import VocoderSettings, new_vocoder, train_vocoder
from train.fitting import Trained

PARTS = ACE_STEP_1.parts

Stage = Literal[
    "corpus",
    "codec",
    "vocoder",
    "round-trip",
    "separator",
    "separation",
    "latents",
    "flow",
    "text2music",
    "card",
    "publish",
]
STAGES: tuple[Stage, ...] = get_args(Stage)

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class RecipeSettings(Config):
    """Everything that the bundle depends on."""

    seed: int = 20250607
    corpus: CorpusSettings = CorpusSettings()
    codec: CodecSettings = CodecSettings()
    vocoder: VocoderSettings = VocoderSettings()
    separator: SeparatorSettings = SeparatorSettings()
    flow: FlowSettings = FlowSettings()
    measure: MeasureSettings = MeasureSettings()


class Stages:
    """Stages over one work folder, whose networks, measures and bundle are kept there and go on from what there is."""

    stages: Sequence[str]
    """In order."""

    def __init__(self, work: Path, corpus: CorpusSettings, *, seed: int, out: Path, workers: int) -> None:
        self.work, self.seed, self.out, self.workers = work, seed, out, workers
        self.corpus = Corpus(work / "corpus", corpus)
        self.device = default_device()
        self.bundle = work / "bundle"
        self.trained: dict[str, Trained] = {}

    @property
    def steps(self) -> Mapping[str, Callable[[], object]]:
        """What each stage does."""
        raise NotImplementedError

    def run(self, stage: str) -> None:
        say(f"stage {stage}")
        self.steps[stage]()

    def run_all(self, only: str = "") -> None:
        """All stages in turn, or `only` one. Raises UserError for one that there is not."""
        if only not in ("", *self.stages):
            raise UserError(f"--only {only}: the stages are {', '.join(self.stages)}.")
        for stage in self.stages:
            if only in ("", stage):
                self.run(stage)

    def make_corpus(self) -> None:
        make_corpus(self.corpus.folder, self.corpus.settings, workers=self.workers)

    def new(self, make: Callable[[], AnyModule]) -> AnyModule:
        """A network whose first weights depend on the seed alone."""
        torch.manual_seed(self.seed)
        return make().to(self.device)

    def note(
        self,
        name: str,
        parts: Sequence[str],
        measure: Callable[[], Mapping[str, Numbers]],
        *,
        variant: str = "",
    ) -> None:
        """Measure and write down, unless that was done of these very parts of the bundle or of its folder `variant`."""
        hashes = {part: part_hash(self.bundle / variant, part) for part in parts}
        if self._noted(name).get("parts") == hashes:
            return
        text = json.dumps({"parts": hashes, "measured": measure()}, indent=1) + "\n"
        with whole_file(self._note_path(name)) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")

    def measured(self, *names: str) -> dict[str, Numbers]:
        """What was noted under these names."""
        return {key: numbers for name in names for key, numbers in self._noted(name).get("measured", {}).items()}

    def publish(self) -> None:
        shutil.copytree(self.bundle, self.out, dirs_exist_ok=True)
        say((self.out / CARD_FILE).read_text(encoding="utf-8"))

    def _noted(self, name: str) -> dict[str, dict[str, Numbers]]:
        path = self._note_path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _note_path(self, name: str) -> Path:
        return self.work / "measured" / f"{name}.json"


class Recipe(Stages):
    """The stages in turn. A stage that needs a network of an earlier one reads it, or first trains it."""

    stages = STAGES

    def __init__(self, work: Path, settings: RecipeSettings, *, out: Path, workers: int) -> None:
        super().__init__(work, settings.corpus, seed=settings.seed, out=out, workers=workers)
        self.settings = settings

    @property
    def steps(self) -> Mapping[str, Callable[[], object]]:
        return {
            "corpus": self.make_corpus,
            "codec": lambda: self.codec,
            "vocoder": lambda: self.vocoder,
            "round-trip": self._measure_round_trip,
            "separator": lambda: self.separator,
            "separation": self._measure_separation,
            "latents": lambda: self.latents,
            "flow": lambda: self.flow,
            "text2music": self._measure_text2music,
            "card": self._write_card,
            "publish": self.publish,
        }

    @cached_property
    def codec(self) -> Codec:
        codec, settings = self.new(new_codec), self.settings.codec
        self.trained["codec"] = train_codec(self.work / "codec", codec, self.corpus, settings, seed=self.settings.seed)
        write_codec(self.bundle, codec)
        return codec

    @cached_property
    def vocoder(self) -> Vocoder:
        vocoder, folder = self.new(new_vocoder), self.work / "vocoder"
        self.trained["vocoder"] = train_vocoder(
            folder, vocoder, self.codec, self.corpus, self.settings.vocoder, seed=self.settings.seed
        )
        write_vocoder(self.bundle, vocoder)
        return vocoder

    @cached_property
    def separator(self) -> HTDemucs:
        separator, folder = self.new(new_separator), self.work / "separator"
        self.trained["separator"] = train_separator(
            folder, separator, self.corpus, self.settings.separator, seed=self.settings.seed
        )
        write_separator(self.bundle, separator)
        return separator

    @cached_property
    def latents(self) -> LatentSongs:
        codec = self.codec
        return encode_songs(
            self.work / "latents", lambda wave: codec.encode(torch.from_numpy(wave).to(self.device)), self.corpus
        )

    @cached_property
    def flow(self) -> TextConditionedFlow:
        flow, folder = self.new(TextConditionedFlow), self.work / "flow"
        self.trained["flow"] = train_flow(folder, flow, self.latents, self.settings.flow, seed=self.settings.seed)
        write_flow(self.bundle, flow)
        return flow

    def _measure_round_trip(self) -> None:
        _ = self.codec, self.vocoder
        parts: Sequence[str] = (PARTS.codec, PARTS.vocoder)
        round_trip = round_trip_of(self.bundle)
        self.note("round trip", parts, lambda: {"round trip": measure_round_trip(round_trip, self.corpus)})
        self.note("vocoder", parts, lambda: {"vocoder": measure_vocoder(self.bundle, self.corpus)})

    def _measure_separation(self) -> None:
        _ = self.separator
        self.note("separation", ("demucs",), lambda: {"separation": measure_separation(self.bundle, self.corpus)})

    def _measure_text2music(self) -> None:
        _ = self.codec, self.vocoder, self.flow
        parts: Sequence[str] = (PARTS.codec, PARTS.vocoder, PARTS.transformer, PARTS.text_encoder)
        settings = self.settings.measure
        make, round_trip = text2music_of(self.bundle, settings.sampler), round_trip_of(self.bundle)
        self.note("text2music", parts, lambda: measure_text2music(round_trip, make, self.corpus, settings))

    def _write_card(self) -> None:
        _ = self.codec, self.vocoder, self.separator, self.flow
        measured = self.measured("round trip", "vocoder", "separation", "text2music")
        write_card(self.bundle, HEADER, self.settings, self.trained, measured, device=str(self.device))

"""From songs to an accompaniment, each stage through the function that its command calls."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from common.bases import ACE_STEP_1
from common.config import Config, load_config
from common.progress import say
from demo.results import DemoResults, compare_and_evaluate
from models.flow.options import Mode
from prep.building.build import build_shards
from prep.config import PrepConfig
from prep.made_up.folder import HELD_OUT_SEED, make_songs
from train.config import TrainingConfig
from train.loop.checkpoint import CHECKPOINTS, LAST, find_last
from train.loop.fit import fit

VALIDATION_FRACTION = 0.25
"""Share of the songs kept for validation; its confidence intervals are over songs."""
MODES: tuple[Mode, ...] = get_args(Mode)


class DemoConfig(Config):
    """How much to make."""

    songs: Annotated[int, Field(ge=3)] = 32
    """Songs to train on, of which VALIDATION_FRACTION are kept for validation."""
    held_out: Annotated[int, Field(ge=2)] = 4
    """Songs that are not trained on, whose vocals get an accompaniment."""
    seconds: Annotated[float, Field(ge=2)] = 10.0
    """Length of each song."""
    train_steps: Annotated[int, Field(ge=1)] = 400
    """Training steps in each mode."""
    infer_steps: Annotated[int, Field(ge=1)] = 20
    """Sampling steps of each accompaniment."""


@dataclass(frozen=True)
class DemoArtifacts:
    """What the demo made."""

    out: Path
    adapters: Mapping[str, Path]
    """By mode."""
    results: DemoResults


def run_demo(out: Path, config: DemoConfig) -> DemoArtifacts:
    """Make in folder `out` what is not there yet, reporting each stage.

    Raises KeyboardInterrupt after an interrupted training has saved, UserError where a stage cannot go on.
    """
    say(f"1/4 songs: {config.songs} to train on, {config.held_out} held out")
    make_songs(out / "songs", songs=config.songs, seconds=config.seconds, seed=0)
    held_out = make_songs(out / "held-out", songs=config.held_out, seconds=config.seconds, seed=HELD_OUT_SEED)
    say("2/4 shards: the songs as latents, all that training reads")
    shards = out / "shards"
    build_shards(out / "songs", shards, PrepConfig(), checkpoint="tiny", workers=1, devices=["cpu"], rebuild=False)
    say("3/4 adapters: one sees the vocal through a projection, one through an encoder of its own")
    adapters: dict[str, Path] = {
        mode: train(mode, shards, out / "training", steps=config.train_steps) for mode in MODES
    }
    say("4/4 accompaniments: bands for the held-out vocals, compared and measured")
    return DemoArtifacts(out, adapters, compare_and_evaluate(out, held_out, adapters, infer_steps=config.infer_steps))


def train(mode: Mode, shards: Path, runs: Path, *, steps: int) -> Path:
    """The adapter of a mode after `steps`: the one that is there, else that of a new or a resumed run."""
    settings = [
        f"dataset_path={json.dumps(str(shards))}",
        f"logger_dir={json.dumps(str(runs))}",
        f"max_steps={steps}",
        f"val_every_n_steps={-(-steps // 3)}",
        f"checkpoint_every_n_steps={steps}",
        f"val_fraction={VALIDATION_FRACTION}",
    ]
    config = load_config(TrainingConfig, f"tiny_{mode}", settings)
    checkpoints = sorted((runs / config.exp_name).glob(f"version_*/{CHECKPOINTS}"))
    finished = [adapter for folder in checkpoints for adapter in folder.glob(f"epoch=*-step={steps}_lora")]
    if finished:
        say(f"{mode}: trained already ({finished[-1]})")
        return finished[-1]
    started = any((folder / LAST).is_file() for folder in checkpoints)
    outcome = fit(config, checkpoint_dir="tiny", resume_from=find_last(config) if started else None)
    if outcome.interrupted_by is not None:
        raise KeyboardInterrupt
    return outcome.adapter


def summary(made: DemoArtifacts) -> str:
    """What was made, where it lies, and what comes next, for the terminal."""
    reports = ", ".join(str(page.relative_to(made.out)) for page in made.results.reports.values())
    return f"""
{made.results.table}

Intervals are 95 % bootstraps over songs. true, text2music and shuffled are anchors: the band that the voice was sung
to, the base from the prompt alone, another song's band. These networks are tiny: they show that every stage works,
not how ACE-Step sounds.

Made in {made.out}/
  songs/ held-out/   made-up songs: voice, band, mix, tags, lyrics
  shards/            the songs as latents
  training/          two adapters (tensorboard --logdir {made.out / "training"})
  comparison/        the voices with their bands, as files
  {reports}

Listen:  open {made.results.page.resolve().as_uri()} in a browser

Next, with your own songs and the published model (8.3 GB, fetched the first time):
  $ prep build-shards my-songs/ shards/ --checkpoint-dir {ACE_STEP_1.published_id}
  $ train run --config image2image_base --shards shards/ --precision bf16
  $ infer generate --vocal me.wav --prompt "piano, drums" --adapter ADAPTER"""

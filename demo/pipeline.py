"""Bands at once, then a training of one's own: each stage through the function that its command calls."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from common.bases import ACE_STEP_1
from common.config import Config, load_config
from common.files import whole_file
from common.progress import say
from demo.results import SHIPPED_BANDS, TEXT2MUSIC, TRAINED_BANDS, DemoResults, measure_bands
from infer.band.generate import generate
from infer.band.session import Session, StepProgress
from infer.compare.compare import Comparison, compare
from infer.request.request import GenerationRequest
from models.acestep1.text.lyric_tokens import INSTRUMENTAL
from models.adapters.adapter import read_card
from models.adapters.shipped import SHIPPED
from prep.building.build import build_shards
from prep.config import PrepConfig
from prep.made_up.folder import HELD_OUT_SEED, make_songs
from prep.made_up.truth import untold
from train.config import TrainingConfig
from train.loop.checkpoint import CHECKPOINTS, LAST, find_last
from train.loop.fit import fit

ADAPTER = SHIPPED / "controlnet"
CONFIG = "tiny_controlnet"
LYRICS_FILE = "instrumental.txt"
"""For every band: none of them sings."""


class DemoConfig(Config):
    """How much to make."""

    voices: Annotated[int, Field(ge=2)] = 8
    """Songs that nothing was trained on, whose vocals get bands."""
    songs: Annotated[int, Field(ge=3)] = 16
    """Songs to train on."""
    seconds: Annotated[float, Field(ge=2)] = 10.0
    """Length of each song."""
    train_steps: Annotated[int, Field(ge=1)] = 60
    """Training steps from the shipped adapter."""
    infer_steps: Annotated[int, Field(ge=1)] = 30
    """Sampling steps of each band."""


@dataclass(frozen=True)
class DemoArtifacts:
    """What the demo made."""

    out: Path
    adapter: Path
    page: Path
    """Where to listen."""
    results: DemoResults


def run_demo(out: Path, config: DemoConfig) -> DemoArtifacts:
    """Make in folder `out` what is not there yet, reporting each act.

    Raises KeyboardInterrupt after an interrupted training has saved, UserError where a stage cannot go on.
    """
    say(f"1/4 bands for {config.voices} voices that the adapter inside Backline never heard, from the voice alone")
    voices = make_songs(out / "voices", songs=config.voices, seconds=config.seconds, seed=HELD_OUT_SEED)
    _write(out / LYRICS_FILE, INSTRUMENTAL)
    session = Session(on_progress=FirstSound(out / "comparison"))
    comparison = Comparison(
        test_set=_write_json(out / "test_set.json", [_item(mix, out) for mix in voices]),
        adapters=(_write_json(out / f"{SHIPPED_BANDS}.json", {"lora_path": str(ADAPTER)}),),
        output_dir=out / "comparison",
        infer_steps=config.infer_steps,
        device="cpu",
    )
    say(f"hear them while the rest runs: {compare(comparison, session)}")
    say(f"2/4 songs of its own: {config.songs} made-up ones as shards, all that training reads")
    make_songs(out / "songs", songs=config.songs, seconds=config.seconds, seed=0, lead_sheets=True)
    shards = out / "shards"
    build_shards(out / "songs", shards, PrepConfig(), checkpoint="tiny", workers=1, devices=["cpu"], rebuild=False)
    say(f"3/4 training: {config.train_steps} steps that start from the adapter inside Backline")
    adapter = train(shards, out / "training", steps=config.train_steps)
    say("4/4 bands of the new adapter and of none, all compared and measured")
    model = _write_json(out / f"{TRAINED_BANDS}.json", {"lora_path": adapter.relative_to(out).as_posix()})
    page = compare(replace(comparison, adapters=(*comparison.adapters, model)), session)
    make_without_vocal(voices, out, config, session)
    folders = {name: out / "comparison" / "models" / name for name in (SHIPPED_BANDS, TRAINED_BANDS)}
    return DemoArtifacts(out, adapter, page, measure_bands(voices, folders | {TEXT2MUSIC: out / TEXT2MUSIC}))


class FirstSound:
    """Says once where the first band lies."""

    def __init__(self, comparison: Path) -> None:
        self._comparison, self._said = comparison, False

    def __call__(self, step: StepProgress) -> None:
        if step.task == "comparing" and step.done and not self._said:
            self._said = True
            first = sorted(self._comparison.glob("models/*/*/*_mix.wav"))[0]
            say(f"first band: {first}, and beside it the lead sheet that was read from the voice")


def train(shards: Path, runs: Path, *, steps: int) -> Path:
    """The adapter after `steps` from the shipped one: the one that is there, else that of a new or a resumed run."""
    config = load_config(TrainingConfig, CONFIG, _settings(shards, runs, steps))
    config = config.model_copy(update={"init_from": str(ADAPTER)})
    checkpoints = sorted((runs / config.exp_name).glob(f"version_*/{CHECKPOINTS}"))
    finished = [adapter for folder in checkpoints for adapter in folder.glob(f"epoch=*-step={steps}_lora")]
    if finished:
        say(f"trained already ({finished[-1]})")
        return finished[-1]
    started = any((folder / LAST).is_file() for folder in checkpoints)
    outcome = fit(config, checkpoint_dir="tiny", resume_from=find_last(config) if started else None)
    if outcome.interrupted_by is not None:
        raise KeyboardInterrupt
    return outcome.adapter


def _settings(shards: Path, runs: Path, steps: int) -> list[str]:
    """Those of a run of the shipped adapter's shape."""
    card = read_card(ADAPTER)
    assert card.lora is not None
    assert card.conditioning.lead_sheet is not None
    return [
        f"dataset_path={json.dumps(str(shards))}",
        f"logger_dir={json.dumps(str(runs))}",
        f"lora.r={card.lora.r}",
        f"lora.lora_alpha={card.lora.lora_alpha}",
        f"accompaniment.lead_sheet.dim={card.conditioning.lead_sheet.dim}",
        "learning_rate=5e-4",
        f"max_steps={steps}",
        f"val_every_n_steps={steps}",
        f"checkpoint_every_n_steps={steps}",
    ]


def make_without_vocal(voices: Sequence[Path], out: Path, config: DemoConfig, session: Session) -> None:
    """For each voice what the base makes of its prompt alone, where it is not there yet."""
    for mix in voices:
        item = _item(mix, out)
        folder = out / TEXT2MUSIC / item["key"]
        if not (folder / f"{item['key']}.json").is_file():
            request = GenerationRequest(
                adapters=(),
                vocal=out / item["vocal_path"],
                prompt=item["prompt"],
                lyrics=out / LYRICS_FILE,
                infer_steps=config.infer_steps,
                output_dir=folder,
                checkpoint_dir="tiny",
                device="cpu",
            )
            generate(request, session)


def _item(mix: Path, out: Path) -> dict[str, str]:
    key = mix.stem.removesuffix("_mix")
    tags = mix.with_name(f"{key}_prompt.txt").read_text(encoding="utf-8").strip().split(", ")
    vocal = mix.with_name(f"{key}_vocal{mix.suffix}").relative_to(out)
    return {"key": key, "vocal_path": vocal.as_posix(), "prompt": untold(tags), "lyrics_path": LYRICS_FILE}


def _write_json(path: Path, content: object) -> Path:
    return _write(path, json.dumps(content, indent=1, ensure_ascii=False))


def _write(path: Path, text: str) -> Path:
    with whole_file(path) as partial:
        partial.write_text(f"{text}\n", encoding="utf-8", newline="\n")
    return path


def summary(made: DemoArtifacts) -> str:
    """What was made, where it lies, and what comes next, for the terminal."""
    return f"""
{made.results.table}

Means over {made.results.voices} voices with 95 % intervals. Anchors: what the shipped adapter made for another's vocal,
text2music (the base from the prompt alone), the ideal listener (the key and chords that the sung notes tell at most to
one who knows the made-up world and the beats), and true, the band that the voice was sung to.
These networks are tiny: they show that every stage works, not how ACE-Step sounds.

Made in {made.out}/
  voices/            voices that nothing was trained on, with their true bands
  comparison/ text2music/
                     bands for them, with the lead sheets that were read from the voices
  songs/ shards/     made-up songs of its own, and the same as latents
  training/          an adapter from the shipped one (tensorboard --logdir {made.out / "training"})

Listen:  open {made.page.resolve().as_uri()} in a browser

Next, with your own songs and the published model (8.3 GB, fetched the first time):
  $ prep build-shards my-songs/ shards/ --checkpoint-dir {ACE_STEP_1.published_id}
  $ train run --config image2image_base --shards shards/ --precision bf16
  $ infer generate --vocal me.wav --prompt "piano, drums" --adapter ADAPTER

{made.results.verdict}"""

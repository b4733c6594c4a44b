"""The train command: shards in, an adapter out."""

import json
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from common.command import command_app, example, run
from common.config import CONFIGS, find_config, load_config
from common.errors import UserError
from common.presets import preset_on
from common.progress import say
from train.config import TrainingConfig

DEVICE_HELP = "cpu, cuda, cuda:1, mps; auto is cuda where there is one, else cpu."
STUDY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
SURE = "val/gain_over_muted and val/conditioning_gain above 0 with 95 % confidence"

app = command_app("Train adapters that make the band for a vocal.")


@app.callback()
def train() -> None: ...


@app.command(
    "run",
    epilog=example(
        "train run --config tiny_image2image --shards shards/",
        "train run --config tiny_controlnet --shards shards/ --set lora.r=4 --set max_steps=4",
    ),
)
def train_run(
    config: Annotated[
        str | None,
        typer.Option(
            help="JSON file, or the name of a shipped one [the preset for as many songs as the shards hold].",
            metavar="FILE",
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Folder of shards, http(s):// address of one, or pipe:COMMAND {} [the config's dataset_path].",
            metavar="DIR",
        ),
    ] = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(help="Base model: a folder, a Hugging Face id, or tiny [that of the shards].", metavar="DIR"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; may be repeated.", metavar="NAME=VALUE")
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    devices: Annotated[int, typer.Option(help="How many GPUs (or, without any, processes) of a machine.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="How many machines; start this command on each.", min=1)] = 1,
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"],
        typer.Option(help="Several devices: ddp copies the base to each, fsdp divides it. auto is ddp."),
    ] = "auto",
    precision: Annotated[
        Literal["32", "bf16"] | None, typer.Option(help="Number format of the frozen base [base_dtype, else 32].")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from this adapter, of the same base and shape.", metavar="DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the experiment's newest run.")] = False,
    resume_from: Annotated[
        Path | None, typer.Option(help="Go on from this last.ckpt or run folder.", metavar="PATH")
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Show the resolved config and stop.")] = False,
) -> None:
    """Train on cached latents; adapters go to logger_dir/exp_name/version_N/checkpoints.

    Prints the newest adapter's folder, then the best one's, and says how to tune its sampler. best.json beside them
    names the best: the highest val/x0_gain of those that listen to the vocal (val/gain_over_muted and
    val/conditioning_gain above 0 with 95 % confidence). Where validation holds separated vocals and eight songs or more
    with given ones, the given ones decide. Ctrl-C saves first; --resume goes on as if nothing had happened.
    """
    if resume and resume_from:
        raise UserError("--resume and --resume-from both say where to go on. Leave one out.")
    given = _overrides(settings or [], shards, precision)
    resolved = load_config(TrainingConfig, config or _preset(load_config(TrainingConfig, None, given)), given)
    if init_from is not None:
        from models.adapters.shipped import adapter_folder

        resolved = resolved.model_copy(update={"init_from": str(adapter_folder(init_from))})
    if print_config:
        typer.echo(resolved.model_dump_json(indent=2))
        return

    from train.loop.checkpoint import find_last, locate
    from train.loop.fit import fit

    last = find_last(resolved) if resume else locate(resume_from) if resume_from else None
    outcome = fit(
        resolved,
        checkpoint_dir=checkpoint_dir,
        device=device,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        resume_from=last,
    )
    if outcome.rank == 0:
        gain = outcome.figures.get("val/x0_gain")
        gained = "" if gain is None else f", val/x0_gain {gain:.4f}"
        typer.echo(f"step {outcome.step} after {outcome.seconds:.0f} s{gained}: {outcome.adapter}")
        folder = outcome.adapter
        if outcome.best is not None:
            best, folder = outcome.best, outcome.adapter.with_name(outcome.best.adapter)
            typer.echo(f"best at step {best.step}, {best.decided_by} {best.gain:.4f}: {folder}")
        elif outcome.figures:
            typer.echo(f"no best yet: no validation was sure that it listens to the vocal ({SURE})")
        if outcome.figures and Path(resolved.dataset_path).is_dir():
            command = ["infer", "tune", "--adapter", str(folder), "--shards", resolved.dataset_path]
            say(f"next, the sampler settings that suit it: {shlex.join(command)}")
    if outcome.interrupted_by is not None:
        raise typer.Exit(128 + outcome.interrupted_by)


@app.command(
    epilog=example(
        "train search --config tiny_image2image --optuna-config tiny_search --shards shards/",
        "train search --config tiny_controlnet --optuna-config tiny_search --shards shards/ --study-name control",
    )
)
def search(
    config: Annotated[
        str | None, typer.Option(help="JSON file of the runs, or the name of a shipped one.", metavar="FILE")
    ] = None,
    optuna_config: Annotated[
        str, typer.Option(help="JSON file of the search, or the name of a shipped one.", metavar="FILE")
    ] = "optuna_search",
    shards: Annotated[
        str | None, typer.Option(help="Folder of shards [the config's dataset_path].", metavar="DIR")
    ] = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(help="Base model: a folder, a Hugging Face id, or tiny [that of the shards].", metavar="DIR"),
    ] = None,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = "auto",
    storage: Annotated[str, typer.Option(help="Where Optuna keeps the study.", metavar="URL")] = "sqlite:///optuna.db",
    study_name: Annotated[str, typer.Option(help="Name of the study and of its files.", metavar="NAME")] = (
        "accompaniment_search"
    ),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting of either file; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    precision: Annotated[
        Literal["32", "bf16"] | None, typer.Option(help="Number format of the frozen base [base_dtype, else 32].")
    ] = None,
) -> None:
    """Search for better settings: many short trainings on one base and one cache, compared by validation.

    Writes NAME_best.json, which train run takes as it is, and NAME_report.html beside the config (for a shipped one,
    in this folder). Start the command several times, on one machine or many, and the processes share the trials; start
    it again to go on. Ctrl-C ends a process and gives its trial back. optuna-dashboard URL shows a study live.
    """
    from train.search.config import OptunaConfig

    ours = [setting for setting in settings or [] if re.split(r"[.=]", setting)[0] in OptunaConfig.model_fields]
    others = [setting for setting in settings or [] if setting not in ours]
    resolved = load_config(TrainingConfig, config, _overrides(others, shards, precision))
    wanted = load_config(OptunaConfig, optuna_config, ours)
    if not re.fullmatch(STUDY_NAME, study_name):
        raise UserError(
            f"--study-name {study_name}: it names files; use letters, digits, dots, dashes and underscores."
        )

    from train.search.process import search as run_search
    from train.search.report import counted, summary

    outcome = run_search(
        resolved,
        wanted,
        checkpoint_dir=checkpoint_dir,
        device=device,
        storage=storage,
        study_name=study_name,
        out=_beside(config),
    )
    typer.echo(counted(outcome.trials, outcome.left))
    if outcome.best is None:
        typer.echo(f"no best yet: no complete trial is sure to listen to the vocal ({SURE})")
    else:
        typer.echo(f"best is {summary(outcome.best, wanted.metric)}")
        typer.echo(outcome.best_config)
    typer.echo(outcome.report)
    if outcome.interrupted_by is not None:
        raise typer.Exit(128 + outcome.interrupted_by)


@app.command(
    epilog=example(
        "train harmoniser --shards shards/ --adapter adapter/",
        "train harmoniser --shards shards/ --out my-harmoniser/ --init-from none",
    )
)
def harmoniser(
    shards: Annotated[str, typer.Option(help="Shards with lead sheets and vocal features.", metavar="DIR")],
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter that is to use it: it goes into its folder.", metavar="DIR")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Or a folder of its own.", metavar="DIR")] = None,
    init_from: Annotated[
        str | None,
        typer.Option(help="Folder of a harmoniser to start from, or none [the one inside Backline].", metavar="DIR"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.", min=0)] = 0,
) -> None:
    """Train what tells key and chords of a vocal, on songs whose lead sheets are known.

    Takes minutes on a CPU; stopped, it begins again. Shows what it makes of the songs that are held out beside chance,
    the usual chords of the key, the rules, and what it started from. The songs held out also choose the step.
    """
    from train.harmony.run import described, harmoniser_of_shards

    made = harmoniser_of_shards(shards, adapter=adapter, out=out, init_from=init_from, seed=seed)
    typer.echo(described(made.training))
    typer.echo(made.folder)


@app.command(
    epilog=example(
        "train export adapter/ band.safetensors --format comfyui", "train export adapter/ merged/ --format merged"
    )
)
def export(
    adapter: Annotated[Path, typer.Argument(help="Folder that train run wrote (checkpoints/..._lora).")],
    out: Annotated[Path, typer.Argument(help="File (comfyui) or folder (peft, merged) to write.")],
    format: Annotated[Literal["comfyui", "peft", "merged"], typer.Option("--format", help="What to write.")],
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            help="Base it was trained on: a folder, a Hugging Face id, or tiny [the adapter's].", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Write an adapter for other programs; what is written is read back and compared.

    comfyui: the LoRA alone, one file, without the vocal's conditioning. peft: the same as a folder of PEFT's layout,
    which diffusers and the tools of ACE-Step 1.5 read. merged: a transformer folder in the published
    layout with the LoRA in its weights, its path for the vocal and adapter.json; with the base's other parts beside
    it, OUT is both --checkpoint-dir and --adapter of infer generate.
    """
    from models.adapters.shipped import adapter_folder
    from train.export import export_comfyui, export_merged, export_peft

    write = {"comfyui": export_comfyui, "peft": export_peft, "merged": export_merged}[format]
    write(adapter_folder(adapter), out, checkpoint_dir)
    typer.echo(out)


def _preset(config: TrainingConfig) -> str:
    """Name of the shipped config for the songs of a run that names none; says which.

    Raises UserError if there are no shards.
    """
    from shards.location import location_of
    from shards.reader import read_manifest
    from train.loop.preparation import base_of_shards

    manifest = read_manifest(location_of(config.dataset_path))
    preset = preset_on(manifest.families(), base_of_shards(manifest).family)
    say(f"no --config is given: taking {preset}")
    return preset


def _beside(config: str | None) -> Path:
    """Folder for results: that of a config given as a file; the current one for a shipped config."""
    folder = Path() if config is None else find_config(config).parent
    return Path() if folder.resolve() == CONFIGS else folder


def _overrides(settings: list[str], shards: str | None, precision: str | None) -> list[str]:
    """The flags that are settings, before those that were given as settings."""
    flags = [f"dataset_path={json.dumps(shards)}"] if shards else []
    if precision:
        flags.append("base_dtype=" + {"32": "float32", "bf16": "bfloat16"}[precision])
    return flags + settings


def main() -> None:
    """Entry point of the train command."""
    run(app)

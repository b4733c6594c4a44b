"""The prep command: songs in, shards out, and questions about shards answered."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.command import command_app, example, run
from common.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prep.building.repair import Repair
    from prep.captions.beside import SongText
    from prep.config import PrepConfig

app = command_app("Turn songs into shards of latents.")

Shards = Annotated[Path, typer.Argument(help="Folder of shards.", metavar="SHARDS")]
ConfigFile = Annotated[str, typer.Option("--config", help="JSON file, or the name of a shipped one.", metavar="FILE")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting; may be repeated.", metavar="NAME=VALUE")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="Base model: a folder, a Hugging Face id, or tiny [that of the shards].", metavar="DIR"),
]
Raw = Annotated[Path, typer.Argument(help="Folder of songs, searched recursively.", metavar="RAW")]
SeparatorName = Annotated[str | None, typer.Option(help="Demucs model by name or folder, or none.", metavar="NAME")]
Targets = Annotated[str | None, typer.Option(help="What to encode beside the vocal.", metavar="inst,mix")]
Ssl = Annotated[
    str | None,
    typer.Option(help="Keep SSL features too: 80 times the latents.", metavar="mert,mhubert"),
]
SslFolder = Annotated[
    Path | None, typer.Option("--ssl-dir", help="Folder that holds mert/, mhubert/ [--checkpoint-dir].", metavar="DIR")
]
Workers = Annotated[int | None, typer.Option(help="Processes [one a core, three a GPU, for 4 songs or more].", min=1)]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace those that are there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or several: cuda:0,cuda:1 [every GPU].", metavar="DEVICE")]


@app.command(
    epilog=example(
        "prep build-shards raw/ shards/ --checkpoint-dir ACE-Step/ACE-Step-v1-3.5B",
        "prep build-shards raw/ shards/ --targets inst --set segment.max_seconds=60 --rebuild",
    )
)
def build_shards(
    raw: Raw,
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    config: ConfigFile = "prep_base",
    settings: Settings = None,
    checkpoint_dir: Checkpoint = None,
    separator: SeparatorName = None,
    targets: Targets = None,
    ssl: Ssl = None,
    ssl_folder: SslFolder = None,
    workers: Workers = None,
    device: Device = "auto",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Processes here, or of a Ray cluster.")] = "local",
    prune: Annotated[bool, typer.Option("--prune", help="Leave out songs that are no longer in RAW.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make all shards anew.")] = False,
) -> None:
    """Encode every song of RAW that OUT does not hold yet, and bring the texts of the others up to date.

    A song is KEY.EXT, which is separated, or two or three of KEY_vocal.EXT, KEY_inst.EXT and KEY_mix.EXT; tags in
    KEY_prompt.txt and lyrics in KEY_lyrics.txt beside it. Songs that cannot be used are listed in OUT/rejected.jsonl.
    """
    from prep.building.build import build_shards as build
    from prep.building.build import checkpoint_for
    from prep.building.workers import choose_devices
    from prep.config import load_prep_config
    from prep.sources.remarks import listed
    from shards.rejection import REJECTED_FILE

    resolved = load_prep_config(config, settings or [], separator=separator, targets=targets, ssl=ssl)
    done = build(
        raw,
        out,
        resolved,
        checkpoint=checkpoint_for(checkpoint_dir, out),
        workers=workers,
        devices=choose_devices(device),
        rebuild=rebuild,
        prune=prune,
        ssl_folder=ssl_folder,
        engine=engine,
    )
    totals, rejected = done.manifest.totals, len(done.rejections)
    if done.gone and not prune:
        typer.echo(f"{len(done.gone)} songs are no longer in {raw}; they stay until --prune", err=True)
    typer.echo(
        f"{done.kept} of {done.kept + rejected} songs kept, {rejected} rejected ({out / REJECTED_FILE}); "
        f"{totals.segments} segments in {len(done.manifest.shards)} shards, "
        f"fingerprint {done.manifest.fingerprint.short}"
    )
    for line in listed(done.unused):
        typer.echo(line, err=True)


@app.command(epilog=example("prep plan raw/ shards/", "prep plan raw/ shards/ --set segment.max_seconds=60"))
def plan(
    raw: Raw,
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    config: ConfigFile = "prep_base",
    settings: Settings = None,
    checkpoint_dir: Checkpoint = None,
    separator: SeparatorName = None,
    targets: Targets = None,
    ssl: Ssl = None,
    ssl_folder: SslFolder = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what a build would take: hours of music, space, and time as measured on a short song. Writes nothing."""
    from prep.building.build import checkpoint_for
    from prep.building.workers import choose_devices
    from prep.config import load_prep_config
    from prep.reports.estimate import describe, estimate_build

    found = estimate_build(
        raw,
        out,
        load_prep_config(config, settings or [], separator=separator, targets=targets, ssl=ssl),
        checkpoint=checkpoint_for(checkpoint_dir, out),
        devices=choose_devices(device),
        ssl_folder=ssl_folder,
        workers=workers,
    )
    typer.echo(json.dumps(vars(found)) if as_json else describe(found))


@app.command(epilog=example("prep status shards/ raw/"))
def status(
    out: Shards,
    raw: Raw,
    config: ConfigFile = "prep_base",
    settings: Settings = None,
    checkpoint_dir: Checkpoint = None,
    separator: SeparatorName = None,
    targets: Targets = None,
    ssl: Ssl = None,
    ssl_folder: SslFolder = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show which songs are fresh, stale, missing, gone or rejected under these settings, and why. Writes nothing."""
    from prep.building.build import checkpoint_for
    from prep.building.workers import choose_devices
    from prep.config import load_prep_config
    from prep.reports.status import lines, survey
    from prep.reports.status import status as by_state
    from shards.reader import read_manifest

    read_manifest(out)  # RAW and SHARDS are easily exchanged
    surveyed = survey(
        raw,
        out,
        load_prep_config(config, settings or [], separator=separator, targets=targets, ssl=ssl),
        checkpoint=checkpoint_for(checkpoint_dir, out),
        devices=choose_devices(device),
        ssl_folder=ssl_folder,
    )
    found = by_state(out, surveyed.plan, surveyed.unused)
    typer.echo(json.dumps(found) if as_json else lines(found))


@app.command(epilog=example("prep lead-sheets raw/", "prep lead-sheets raw/ --dry-run --json"))
def lead_sheets(
    raw: Raw,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write KEY_lead_sheet.txt for songs that have none: tempo, beats, key and chords, measured on the band.

    Read them through and mend them: they are text, and the next build takes every edit.
    """
    from prep.captions.lead_sheets import measure_lead_sheets

    _tell(measure_lead_sheets(raw, overwrite=overwrite, dry_run=dry_run), "lead sheets", as_json=as_json)


@app.command(epilog=example("prep caption raw/ --dry-run", "prep caption raw/ --json"))
def caption(
    raw: Raw,
    tagger: Annotated[
        Path | None,
        typer.Option(help="Folder of a CLAP checkpoint that hears instruments and genre.", metavar="FOLDER"),
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write KEY_prompt.txt for songs that have none, of what can be measured: tempo, key, drums, bass and more.

    A tag is written only where its measure is sure, and no file where none is. Prompts that are there stay.
    """
    from prep.captions.caption import caption_songs
    from prep.captions.tagger import Tagger

    heard = None if tagger is None else Tagger(tagger)
    _tell(caption_songs(raw, overwrite=overwrite, dry_run=dry_run, tagger=heard), "prompts", as_json=as_json)


@app.command(epilog=example("prep encode ballad_vocal.wav vocal/ --adapter adapter/"))
def encode(
    vocal: Annotated[Path, typer.Argument(help="A vocal alone.", metavar="VOCAL")],
    out: Annotated[Path, typer.Argument(help="Folder for its shard.", metavar="OUT")],
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="Bring the vocal to the level that this adapter learned from, and read lyrics in its language.",
            metavar="DIR",
        ),
    ] = None,
    vocal_lufs: Annotated[float | None, typer.Option(help="Bring the vocal to this loudness.", min=-70, max=0)] = None,
    prompt: Annotated[str | None, typer.Option(help="Tags of the band [KEY_prompt.txt].", metavar="TAGS")] = None,
    lyrics: Annotated[Path | None, typer.Option(help="File of lyrics [KEY_lyrics.txt].", metavar="FILE")] = None,
    config: ConfigFile = "prep_base",
    settings: Settings = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(help="Base model: a folder, a Hugging Face id, or tiny [the adapter's].", metavar="DIR"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Encode one vocal, whole and untrimmed, so that infer can use it without any encoder.

    OUT holds this vocal alone; an earlier encoding of it is replaced, that of another is not.
    """
    from prep.building.vocal import encode_vocal
    from prep.building.workers import choose_devices
    from prep.config import load_prep_config

    level = _level(adapter, vocal_lufs)
    made = encode_vocal(
        vocal,
        out,
        _in_language_of(adapter, load_prep_config(config, settings or [])),
        vocal_lufs=level,
        checkpoint=_checkpoint(adapter, checkpoint_dir),
        adapter=adapter,
        device=choose_devices(device)[0],
        prompt=prompt,
        lyrics=lyrics,
    )
    typer.echo(
        f"{made.shards[0].songs[0].key}: {made.totals.seconds:.1f} s in {made.totals.segments} segments of {out}"
    )


@app.command(epilog=example("prep verify shards/"))
def verify(shards: Shards) -> None:
    """Check hashes, shapes, numbers and index of every shard; exit code 1 and a list if anything is wrong."""
    from shards.reader import read_manifest
    from shards.verify import verify as check

    problems = check(shards)
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    totals = read_manifest(shards).totals
    typer.echo(f"{totals.segments} segments of {totals.songs} songs are as the manifest says")


@app.command(epilog=example("prep repair shards/ raw/"))
def repair(
    shards: Shards,
    raw: Annotated[Path | None, typer.Argument(help="The songs they were made from.", metavar="RAW")] = None,
    checkpoint_dir: Checkpoint = None,
    ssl_folder: SslFolder = None,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Make damaged shards again from RAW, to the bytes they had; without RAW, drop the songs that are damaged."""
    from prep.building.build import checkpoint_for
    from prep.building.repair import drop_damaged, rebuild_damaged
    from prep.building.workers import choose_devices

    if raw is None:
        done = drop_damaged(shards)
        _say_manifest(done)
        typer.echo(f"{len(done.shards)} shards were damaged; without RAW, {len(done.dropped)} samples were dropped")
        for key in done.dropped:
            typer.echo(f"  {key}")
        return
    devices = choose_devices(device)
    checkpoint = checkpoint_for(checkpoint_dir, shards)
    done = rebuild_damaged(shards, raw, checkpoint=checkpoint, devices=devices, ssl_folder=ssl_folder, workers=workers)
    _say_manifest(done)
    typer.echo(f"{len(done.shards)} shards were damaged and are as they were again")


@app.command(
    epilog=example("prep inspect shards/", "prep inspect shards/ --json", "prep inspect shards/ --plots pictures/")
)
def inspect(
    shards: Shards,
    as_json: Json = False,
    plots: Annotated[Path | None, typer.Option(help="Write pictures (PNG) here.", metavar="DIR")] = None,
) -> None:
    """Show what shards hold, song by song."""
    from prep.reports.inspect import summary, table

    typer.echo(json.dumps(summary(shards)) if as_json else table(shards))
    if plots is not None:
        from prep.reports.plots import save_plots

        for path in save_plots(shards, plots):
            typer.echo(str(path), err=True)


@app.command(epilog=example("prep demo-songs raw/ --songs 2 --seconds 8 --seed 0"))
def demo_songs(
    out: Annotated[Path, typer.Argument(help="Folder for the songs.", metavar="OUT")],
    songs: Annotated[int, typer.Option(help="How many.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Other seeds give other songs.")] = 0,
    form: Annotated[Literal["stems", "songs"], typer.Option(help="Vocal, inst and mix, or the mix alone.")] = "stems",
    lead_sheets: Annotated[
        bool, typer.Option("--lead-sheets", help="Write each song's beats, key and chords as KEY_lead_sheet.txt.")
    ] = False,
) -> None:
    """Make up songs to try things with: a voice, a band that fits it, tags and lyrics."""
    from prep.made_up.folder import make_songs

    made = make_songs(out, songs=songs, seconds=seconds, seed=seed, form=form, lead_sheets=lead_sheets)
    typer.echo(f"{len(made)} songs of {seconds:g} s in {out}")


def _tell(rows: "Sequence[SongText]", texts: str, *, as_json: bool) -> None:
    from prep.captions.beside import as_plain, described

    typer.echo(json.dumps(as_plain(rows)) if as_json else described(rows, texts))


def _say_manifest(done: "Repair") -> None:
    if done.manifest:
        typer.echo("manifest.json was another build's and is as it was again")


def _level(adapter: Path | None, vocal_lufs: float | None) -> float:
    if (adapter is None) == (vocal_lufs is None):
        raise UserError("say how loud the vocal shall be: either --adapter DIR or --vocal-lufs LEVEL.")
    if vocal_lufs is not None:
        return vocal_lufs
    from models.adapters.adapter import read_card

    assert adapter is not None
    level = read_card(adapter).vocal_lufs
    if level is None:
        raise UserError(f"{adapter}: its training vocals had no loudness. Use --vocal-lufs.")
    return level


def _in_language_of(adapter: Path | None, config: "PrepConfig") -> "PrepConfig":
    """Settings under which lyrics are read as an adapter learned them, unless a setting says how."""
    if adapter is None or "lyrics_language" in config.text.model_fields_set:
        return config
    from models.adapters.adapter import read_card

    text = config.text.model_copy(update={"lyrics_language": read_card(adapter).lyrics_language})
    return config.model_copy(update={"text": text})


def _checkpoint(adapter: Path | None, given: str | None) -> str:
    from models.adapters.adapter import base_of, read_card
    from models.loading.family import choose_checkpoint

    base = None if adapter is None else base_of(read_card(adapter))
    return choose_checkpoint(given, base, adapter)


def main() -> None:
    """Entry point of the console script."""
    run(app)

"""The infer command: a vocal and an adapter in, an accompaniment out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.command import command_app, example, run
from common.errors import UserError
from common.texts.lyrics import LyricsContent
from infer.judging import app as judging
from infer.options import Checkpoint, Device, Harmoniser, Precision, memory_told

app = command_app("Make accompaniments for a vocal with a trained adapter.")

HIDDEN: Any = typer.Option(hidden=True)
"""A flag for a setting of the sampler, from before --set sampler.NAME=VALUE."""


@app.callback()
def infer() -> None: ...


app.add_typer(judging)


@app.command(
    epilog=example(
        "infer generate --vocal me.wav",
        'infer generate --vocal me.wav --adapter adapter/ --prompt "piano, drums, 112bpm"',
        "infer generate --shards shards/ --key song-000001 --adapter adapter/ --infer-steps 30 --num-samples 2",
        "infer generate --vocal me.wav --adapter adapter/ --set sampler.guidance=cfg --set sampler.guidance_scale=5",
        "infer generate --again outputs/song-000001.json --from 1 --to 2.5",
    )
)
def generate(
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            "--lora-path",
            help="Adapter folder that `train run` wrote; give it again to combine several [for tiny, Backline's own].",
            metavar="DIR",
        ),
    ] = None,
    vocal: Annotated[
        Path | None, typer.Option("--vocal", "--vocal-path", help="The vocal, an audio file.", metavar="FILE")
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Or a folder of shards that holds the vocal, with --key.", metavar="DIR")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which song of the shards.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Comma-separated tags of the band [the shards', or KEY_prompt.txt].", metavar="TAGS"),
    ] = None,
    lyrics: Annotated[
        Path | None, typer.Option(help="Text file of lyrics [the shards', or KEY_lyrics.txt].", metavar="FILE")
    ] = None,
    lyrics_language: Annotated[
        str | None,
        typer.Option(help="Language of the lyrics: en, ja, ... [the shards', or the adapter's].", metavar="LANGUAGE"),
    ] = None,
    lyrics_content: Annotated[
        LyricsContent | None,
        typer.Option(help="What of them counts: nothing, [tags] or all [as the adapter was trained]."),
    ] = None,
    lead_sheet: Annotated[
        Path | None,
        typer.Option(
            help="Tempo, beats, key and chords, as text or .lab [the shards', KEY_lead_sheet.txt, or the voice's own].",
            metavar="FILE",
        ),
    ] = None,
    tempo: Annotated[float | None, typer.Option(help="Its tempo, in beats a minute.", metavar="BPM")] = None,
    musical_key: Annotated[str | None, typer.Option(help='Its key, as in "A minor".', metavar="KEY")] = None,
    chords: Annotated[
        str | None, typer.Option(help='Its chords in bars, over and over: "| C | Am | F G |".', metavar="BARS")
    ] = None,
    harmoniser: Harmoniser = None,
    ref_strength: Annotated[
        float | None, typer.Option(help="How much the vocal counts, 0 to 1 [the adapter's, else 0.5].")
    ] = None,
    lora_weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of the adapter's LoRA, one for each --adapter [the adapters', shared, else 0.8]."),
    ] = None,
    style_lora: Annotated[
        Path | None,
        typer.Option(help="A LoRA for ACE-Step v1 by others, file or folder, beside the adapter.", metavar="FILE"),
    ] = None,
    style_weight: Annotated[float | None, typer.Option(help="Weight of its update, 0 to 16 [1].")] = None,
    infer_steps: Annotated[int | None, typer.Option(help="Sampling steps [the adapter's, else the base's].")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one setting of the sampler, as in sampler.guidance=cfg; may be repeated [the adapter's].",
            metavar="NAME=VALUE",
        ),
    ] = None,
    scheduler: Annotated[str | None, HIDDEN] = None,
    omega_scale: Annotated[float | None, HIDDEN] = None,
    guidance: Annotated[str | None, HIDDEN] = None,
    guidance_scale: Annotated[float | None, HIDDEN] = None,
    guidance_interval: Annotated[float | None, HIDDEN] = None,
    guidance_interval_decay: Annotated[float | None, HIDDEN] = None,
    min_guidance_scale: Annotated[float | None, HIDDEN] = None,
    vocal_guidance_scale: Annotated[float | None, HIDDEN] = None,
    erg: Annotated[bool | None, typer.Option("--erg/--no-erg", hidden=True)] = None,
    blend: Annotated[
        Path | None, typer.Option(help="Reference accompaniment to blend in, an audio file.", metavar="FILE")
    ] = None,
    mix_ratio: Annotated[
        float | None, typer.Option(help="Share of what is generated in the blend: 0 is the reference alone [0.8].")
    ] = None,
    preserve_low: Annotated[
        bool, typer.Option("--preserve-low", help="Take bass and kick from the reference alone.")
    ] = False,
    preserve_high: Annotated[
        bool, typer.Option("--preserve-high", help="Take the highest frequencies from the reference alone.")
    ] = False,
    mixdown_vocal_db: Annotated[
        float | None, typer.Option(help="Gain of the vocal in KEY_mix.wav over its level in training [0].")
    ] = None,
    mixdown_peak_dbfs: Annotated[float | None, typer.Option(help="Highest peak of KEY_mix.wav [-1].")] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            help="Make a region of an earlier take anew, and keep the rest; what is not given is as it was for that.",
            metavar="TAKE.json",
        ),
    ] = None,
    again_from: Annotated[
        float | None, typer.Option("--from", help="Where the region begins.", metavar="SECONDS")
    ] = None,
    again_to: Annotated[float | None, typer.Option("--to", help="Where it ends.", metavar="SECONDS")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the first sample; the others count up from it [0; with --again the one after the take's]."
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(help="How many accompaniments to make.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Folder the results go to.", metavar="DIR")] = Path("outputs"),
    checkpoint_dir: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Write KEY_accompaniment.wav, KEY_mix.wav and KEY.json for one vocal.

    KEY_lead_sheet.txt is the lead sheet that the band follows, if it follows one: edit it, and play it again.

    Nothing is overwritten but by the very same run: where KEY is taken, results are called KEY_2, KEY_3, ... An
    adapter that was trained on whole mixes makes KEY_mix.wav alone.
    """
    from infer.band.generate import generate as make
    from infer.request.request import GenerationRequest
    from models.adapters.shipped import find_adapters

    adapters = find_adapters(adapter or (), checkpoint_dir) if adapter or not again else ()
    if not adapters and not again:
        raise UserError(f"--checkpoint-dir {checkpoint_dir}: no adapter comes with it. Name one with --adapter.")
    with memory_told(precision):
        made = make(
            GenerationRequest(
                adapters=adapters,
                vocal=vocal,
                shards=shards,
                key=key,
                prompt=prompt,
                lyrics=lyrics,
                lyrics_language=lyrics_language,
                lyrics_content=lyrics_content,
                lead_sheet=lead_sheet,
                tempo=tempo,
                musical_key=musical_key,
                chords=chords,
                harmoniser=harmoniser,
                ref_strength=ref_strength,
                lora_weights=tuple(lora_weight or ()),
                style_lora=style_lora,
                style_weight=style_weight,
                infer_steps=infer_steps,
                scheduler=scheduler,
                omega_scale=omega_scale,
                guidance=guidance,
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                guidance_interval_decay=guidance_interval_decay,
                min_guidance_scale=min_guidance_scale,
                vocal_guidance_scale=vocal_guidance_scale,
                erg=erg,
                settings=tuple(settings or ()),
                blend=blend,
                mix_ratio=mix_ratio,
                preserve_low=preserve_low,
                preserve_high=preserve_high,
                mixdown_vocal_db=mixdown_vocal_db,
                mixdown_peak_dbfs=mixdown_peak_dbfs,
                again=again,
                again_from=again_from,
                again_to=again_to,
                seed=seed,
                num_samples=num_samples,
                output_dir=output_dir,
                checkpoint_dir=checkpoint_dir,
                device=device,
                precision=precision,
            )
        )
    sheet = () if made.lead_sheet is None else (made.lead_sheet,)
    for path in (*made.accompaniments, *made.mixes, *sheet, made.record):
        typer.echo(path)


@app.command(epilog=example("infer lead-sheet me.wav", "infer lead-sheet me.wav --out me_lead_sheet.txt"))
def lead_sheet(
    vocal: Annotated[Path, typer.Argument(help="The vocal, an audio file.", metavar="VOCAL")],
    out: Annotated[
        Path | None, typer.Option(help="Write it to this file instead; .lab holds its chords alone.", metavar="FILE")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Adapter whose own harmoniser infers it, if it has one.", metavar="DIR")
    ] = None,
    harmoniser: Harmoniser = None,
    draw: Annotated[
        int | None, typer.Option(min=0, help="Draw key and chords as likely as they are, by this seed [the likeliest].")
    ] = None,
) -> None:
    """Print tempo, key and chords that fit a vocal, bar by bar; "~62" says how sure one is, in per cent.

    By a small network inside Backline, or one that train harmoniser made, on a CPU within seconds. Bars have four
    beats, chords are major or minor.
    """
    from common.audio.decode import AUDIO_SUFFIXES
    from common.music.notation import write_lead_sheet
    from infer.request.harmonise import infer_lead_sheet, save_lead_sheet
    from models.adapters.adapter import read_card
    from models.adapters.harmoniser import find_harmoniser
    from models.adapters.shipped import adapter_folder

    if out is not None and (out.suffix.lower() in AUDIO_SUFFIXES or (out.exists() and out.samefile(vocal))):
        raise UserError(f"--out {out}: that is a recording, and a lead sheet is text. Name a file such as ballad.txt.")
    if adapter is not None and harmoniser is not None:
        raise UserError("--adapter and --harmoniser both name what infers it. Leave one out.")
    found = () if adapter is None else (adapter_folder(adapter),)
    folder = harmoniser or find_harmoniser(found, [read_card(one) for one in found])
    sheet = infer_lead_sheet(vocal, folder, draw=draw)
    if out is None:
        typer.echo(write_lead_sheet(sheet), nl=False)
    else:
        save_lead_sheet(sheet, out)
        typer.echo(out)


@app.command(epilog=example("infer tune --adapter adapter/ --shards shards/ --trials 60 --max-minutes 90"))
def tune(
    adapter: Annotated[Path, typer.Option(help="Adapter folder that `train run` wrote.", metavar="DIR")],
    shards: Annotated[Path, typer.Option(help="Shards with the songs to try settings on.", metavar="DIR")],
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, with those of earlier calls.")] = 40,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no further one after so many minutes.")
    ] = None,
    songs: Annotated[int, typer.Option(min=1, help="Most songs to try them on.")] = 16,
    all_songs: Annotated[
        bool, typer.Option("--all-songs", help="Use all songs: the adapter was trained on none [those it kept].")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is tried, and of every band.")] = 0,
    checkpoint_dir: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Find the sampler settings with which an adapter's bands fit best, and write them into its adapter.json.

    Tries guidance, over the text and over the vocal, strength and steps. Bands are measured against the decoded true
    ones (chords, beats, key); settings under which the vocal leaks more, or bands sound less like true ones, are out.
    Trials are kept in tuning.json in the adapter's folder: the same command goes on after a stop.
    """
    from infer.tune.tune import TuneRequest, told
    from infer.tune.tune import tune as find_settings
    from models.adapters.shipped import adapter_folder

    inside = adapter_folder(adapter)
    if inside != adapter:
        raise UserError(f"--adapter {adapter}: that one is Backline's own. Copy {inside} and tune the copy.")
    with memory_told(precision):
        outcome = find_settings(
            TuneRequest(
                adapter=adapter,
                shards=shards,
                trials=trials,
                max_minutes=max_minutes,
                songs=songs,
                all_songs=all_songs,
                seed=seed,
                checkpoint_dir=checkpoint_dir,
                device=device,
                precision=precision,
            )
        )
    typer.echo(told(outcome))


@app.command(
    epilog=example("infer studio --open", "infer studio --adapter adapter/ --sessions-dir sessions/ --max-seconds 120"),
)
def studio(
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            help="Adapter folder that `train run` wrote; give it again to combine several [for tiny, Backline's own; "
            "for another base none: the band does not follow the voice].",
            metavar="DIR",
        ),
    ] = None,
    sessions_dir: Annotated[Path, typer.Option(help="Folder of recordings and takes.", metavar="DIR")] = Path(
        "sessions"
    ),
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own wants the token that is printed.")
    ] = "127.0.0.1",
    max_seconds: Annotated[float, typer.Option(min=1, max=3600, help="Longest recording that is taken.")] = 240.0,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            help="Base model: a folder, a Hugging Face id, or tiny [the adapter's, else tiny].", metavar="DIR"
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Serve a page to record or drop a vocal on and hear bands for it, and print its address; Ctrl-C stops it."""
    from infer.studio.serve import StudioRequest, serve
    from infer.studio.takes import BandSource
    from models.adapters.shipped import find_adapters

    serve(
        StudioRequest(
            source=BandSource(
                find_adapters(adapter or (), checkpoint_dir),
                checkpoint_dir or (None if adapter else "tiny"),
                device,
                precision,
            ),
            sessions_dir=sessions_dir,
            host=host,
            port=port,
            max_seconds=max_seconds,
            open_browser=open_browser,
        ),
        on_address=typer.echo,
    )


def main() -> None:
    """Entry point of the infer command."""
    run(app)

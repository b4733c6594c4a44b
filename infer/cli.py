"""The infer command: a vocal and an adapter in, an accompaniment out."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run

app = command_app("Make accompaniments for a vocal with a trained adapter.")


@app.callback()
def infer() -> None: ...


@app.command(
    epilog=example(
        'infer generate --vocal me.wav --adapter adapter/ --prompt "piano, drums, 112bpm"',
        "infer generate --shards shards/ --key song-000001 --adapter adapter/ --infer-steps 30 --num-samples 2",
    )
)
def generate(
    adapter: Annotated[
        Path, typer.Option("--adapter", "--lora-path", help="Adapter folder that `train run` wrote.", metavar="DIR")
    ],
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
    ref_strength: Annotated[
        float | None, typer.Option(help="How much the vocal counts, 0 to 1 [the adapter's, else 0.5].")
    ] = None,
    lora_weight: Annotated[
        float | None, typer.Option(help="Weight of the adapter's LoRA [the adapter's, else 0.8].")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How much the prompt counts [the adapter's, else 15].")
    ] = None,
    infer_steps: Annotated[int | None, typer.Option(help="Sampling steps [the adapter's, else 60].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the others count up from it.")] = 0,
    num_samples: Annotated[int, typer.Option(help="How many accompaniments to make.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Folder the results go to.", metavar="DIR")] = Path("outputs"),
    checkpoint_dir: Annotated[
        str, typer.Option(help="Base model: a folder, a Hugging Face id, or tiny.", metavar="DIR")
    ] = "tiny",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto is cuda where there is one.")] = "auto",
) -> None:
    """Write KEY_accompaniment.wav, KEY_mix.wav and KEY.json for one vocal.

    An adapter that was trained on whole mixes makes KEY_mix.wav alone.
    """
    from infer.generate import generate as make
    from infer.request import Request

    made = make(
        Request(
            adapter=adapter,
            vocal=vocal,
            shards=shards,
            key=key,
            prompt=prompt,
            lyrics=lyrics,
            ref_strength=ref_strength,
            lora_weight=lora_weight,
            guidance_scale=guidance_scale,
            infer_steps=infer_steps,
            seed=seed,
            num_samples=num_samples,
            output_dir=output_dir,
            checkpoint_dir=checkpoint_dir,
            device=device,
        )
    )
    for path in (*made.accompaniments, *made.mixes, made.record):
        typer.echo(path)


def main() -> None:
    """Entry point of the infer command."""
    run(app)

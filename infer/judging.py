"""The commands of infer that judge bands: by ears, by measures, and by measures on a data set that others have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from common.command import command_app, example
from infer.options import Checkpoint, Device, Precision, memory_told

app = command_app("Judge accompaniments.")


@app.command(
    epilog=example(
        "infer compare --test-set test_set.json --adapters adapter/ half.json --output-dir comparison/",
    )
)
def compare(
    test_set: Annotated[
        Path, typer.Option(help='JSON list of {"key", "vocal_path", "prompt"}, optional "lyrics_path".', metavar="FILE")
    ],
    adapters: Annotated[
        list[Path],
        typer.Option(
            "--adapters",
            "--lora-configs",
            help='Adapter folders, or JSON files of {"lora_path", "lora_weight", "ref_strength"}.',
            metavar="A B ...",
        ),
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How much the prompt counts [each adapter's, else the base's].")
    ] = None,
    infer_steps: Annotated[int | None, typer.Option(help="Sampling steps [each adapter's, else the base's].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every band.")] = 0,
    output_dir: Annotated[Path, typer.Option(help="Folder the results go to.", metavar="DIR")] = Path("comparison"),
    checkpoint_dir: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Play every adapter on every sample of a test set, and write comparison.html to judge them blind.

    What is made already with the same settings is kept, what was made with others is made again.
    ratings_template.json is an empty sheet to fill by hand.
    """
    from infer.compare.compare import Comparison
    from infer.compare.compare import compare as make

    with memory_told(precision):
        page = make(
            Comparison(
                test_set=test_set,
                adapters=(*adapters, *(more or ())),
                output_dir=output_dir,
                guidance_scale=guidance_scale,
                infer_steps=infer_steps,
                seed=seed,
                checkpoint_dir=checkpoint_dir,
                device=device,
                precision=precision,
            )
        )
    typer.echo(page)


@app.command(epilog=example("infer ratings ratings_ann.json ratings_ben.json --output-dir report/"))
def ratings(
    sheets: Annotated[list[Path], typer.Argument(help="What raters exported from comparison.html.", metavar="FILE...")],
    output_dir: Annotated[Path | None, typer.Option(help="Folder that ratings.html goes to.", metavar="DIR")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Sum up the sheets of several raters: means, win rates, Wilcoxon's test, and how far the raters agree."""
    from common.files import check_writable
    from common.progress import say
    from infer.compare.ratings import read_sheets, summarise
    from infer.compare.ratings_report import as_json as json_of
    from infer.compare.ratings_report import as_text, write_report

    if output_dir is not None:
        check_writable(output_dir)
    summary = summarise(read_sheets(sheets))
    for warning in summary.warnings:
        say(f"warning: {warning}")
    if output_dir is not None:
        say(f"wrote {write_report(summary, output_dir)}")
    typer.echo(json_of(summary) if as_json else as_text(summary), nl=not as_json)


@app.command(epilog=example("infer evaluate --items outputs/ --truth raw/ --output-dir evaluation/"))
def evaluate(
    items: Annotated[
        Path,
        typer.Option(
            help='Folder that infer generate filled, or a JSON list of {"key", "vocal", "accompaniments"}, optional '
            '"true", "text2music", with paths relative to it.',
            metavar="DIR|FILE",
        ),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(help="Folder of KEY_vocal and the true KEY_inst files, as prep takes them.", metavar="DIR"),
    ] = None,
    text2music: Annotated[
        Path | None,
        typer.Option(help="Folder of the same keys, made with --ref-strength 0 --lora-weight 0.", metavar="DIR"),
    ] = None,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(help="Base model whose codec the true accompaniments go through and back.", metavar="DIR"),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder the report goes to.", metavar="DIR")] = Path("evaluation"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure accompaniments beside anchors: the true ones, another song's, the vocal itself, noise.

    Harmony, rhythm, leakage of the vocal, diversity, plain faults, and distances between sets. Writes evaluation.html,
    evaluation.json and a plot of each vocal, in the place of an earlier report.
    """
    from common.progress import say
    from infer.evaluate.evaluate import EvaluationRequest
    from infer.evaluate.report import as_json as json_of
    from infer.evaluate.report import as_text, evaluate_into

    request = EvaluationRequest(items=items, truth=truth, text2music=text2music, checkpoint_dir=checkpoint_dir)
    found, page = evaluate_into(output_dir, request)
    say(f"wrote {page}")
    typer.echo(json_of(found) if as_json else as_text(found), nl=not as_json)


@app.command(epilog=example("infer benchmark musdb18hq/ --adapter adapter/ --output-dir benchmark/"))
def benchmark(
    dataset: Annotated[
        Path, typer.Argument(help="MUSDB18-HQ or MoisesDB, the folder that was unpacked.", metavar="DATASET")
    ],
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            "--adapter",
            help="Adapter folder, or JSON file as for infer compare; give it again for another.",
            metavar="DIR",
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            help="Bands by another program: KEY.wav for each KEY_vocal.wav in OUT/excerpts, or KEY_01.wav and so on "
            "for several seeds; give it again for another.",
            metavar="NAME=FOLDER",
        ),
    ] = None,
    excerpt_seconds: Annotated[
        float, typer.Option(min=2.0, max=240.0, help="Length of the excerpts; that of the literature is 10.")
    ] = 10.0,
    whole_songs: Annotated[bool, typer.Option("--whole-songs", help="Play to songs, not to excerpts.")] = False,
    prompts: Annotated[
        Literal["vocal", "none"],
        typer.Option(help='"instrumental" with the key of the vocal where that is sure, or by itself.'),
    ] = "vocal",
    clap: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a CLAP checkpoint in the form of transformers, for FAD, FAD-inf, KAD and APA on it.",
            metavar="DIR",
        ),
    ] = None,
    separator: Annotated[
        Path | None,
        typer.Option(help="Folder of a Demucs model (yaml and safetensors), for leakage by it.", metavar="DIR"),
    ] = None,
    infer_steps: Annotated[int | None, typer.Option(help="Sampling steps [each adapter's, else the base's].")] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder the results go to.", metavar="DIR")] = Path("benchmark"),
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    checkpoint_dir: Checkpoint = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Measure systems on the test songs of a data set, beside the true bands, the codec, text2music and the null.

    Three seeds for each excerpt. What is done is kept: the same command goes on where it was stopped. Writes
    benchmark.json and benchmark.html; excerpts/ holds the vocals for other programs.
    """
    from common.progress import say
    from infer.benchmark.bands import BandOptions
    from infer.benchmark.benchmark import BenchmarkRequest
    from infer.benchmark.benchmark import benchmark as measure
    from infer.benchmark.report import as_json as json_of
    from infer.benchmark.report import as_text, write_report

    with memory_told(precision):
        found = measure(
            BenchmarkRequest(
                dataset=dataset,
                adapters=tuple(adapter or ()),
                systems=tuple(system or ()),
                output_dir=output_dir,
                excerpt_seconds=None if whole_songs else excerpt_seconds,
                prompts=prompts,
                clap=clap,
                separator=separator,
                options=BandOptions(
                    infer_steps=infer_steps, checkpoint_dir=checkpoint_dir, device=device, precision=precision
                ),
            )
        )
    say(f"wrote {write_report(found, output_dir)}")
    typer.echo(json_of(found) if as_json else as_text(found), nl=not as_json)

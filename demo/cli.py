"""The backline-demo command: every stage on made-up songs, in minutes, on any computer."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run

app = command_app("Hear bands for made-up voices, and run every stage once.")


@app.command(epilog=example("backline-demo my-demo/"))
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for all that is made.", metavar="OUT")] = Path("backline-demo"),
) -> None:
    """Make bands for made-up voices at once, then songs, shards and an adapter, and compare and measure all bands.

    Uses the tiny model inside Backline; needs no download and no GPU. Run again, it goes on where it stopped.
    """
    from demo.pipeline import DemoConfig, run_demo, summary

    typer.echo(summary(run_demo(out, DemoConfig())))


def main() -> None:
    """Entry point of the console script."""
    run(app)

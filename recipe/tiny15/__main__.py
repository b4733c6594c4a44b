"""`python -m recipe.tiny15` makes models/tiny15/: `random` what ships, `trained` what is to take its place."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from models.loading.checkpoint import TINY15

app = command_app("Makes the tiny bundle of ACE-Step 1.5.")


@app.command(epilog=example("python -m recipe.tiny15 random --out models/tiny15"))
def random(out: Annotated[Path, typer.Option(help="Where the bundle goes.")] = TINY15) -> None:
    """Draw all weights from one seed."""
    from recipe.tiny15.networks import write_bundle

    write_bundle(out)


@app.command(epilog=example("python -m recipe.tiny15 trained --out bundle15"))
def trained(
    out: Annotated[Path, typer.Option(help="Where the finished bundle goes.")],
    work: Annotated[Path, typer.Option(help="Folder of the stages' states; rerun to go on.")] = Path("recipe-work-15"),
    workers: Annotated[int, typer.Option(help="Processes that render songs.")] = 2,
    only: Annotated[str, typer.Option(help="One stage alone; those before it must be done.")] = "",
) -> None:
    """Train all networks on made-up songs, in stages that resume where they were, and measure them for CARD.md."""
    from recipe.tiny15.stages import Tiny15Recipe, Tiny15Settings

    Tiny15Recipe(work, Tiny15Settings(), out=out, workers=workers).run_all(only)


if __name__ == "__main__":
    run(app)

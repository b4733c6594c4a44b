"""`python -m recipe.tiny15` makes models/tiny15/ from nothing, in stages that resume where they were."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from models.loading.checkpoint import TINY15

app = command_app("Makes the tiny bundle of ACE-Step 1.5: songs, networks trained on them, and CARD.md.")


@app.command(epilog=example("python -m recipe.tiny15 --work recipe-work-15"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of the stages' states; rerun to go on.")] = Path("recipe-work-15"),
    out: Annotated[Path, typer.Option(help="Where the finished bundle goes.")] = TINY15,
    workers: Annotated[int, typer.Option(help="Processes that render songs.")] = 2,
    only: Annotated[str, typer.Option(help="One stage alone; those before it must be done.")] = "",
) -> None:
    from recipe.tiny15.stages import Tiny15Recipe, Tiny15Settings

    Tiny15Recipe(work, Tiny15Settings(), out=out, workers=workers).run_all(only)


if __name__ == "__main__":
    run(app)

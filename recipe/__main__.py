"""`python -m recipe` makes models/tiny/ from nothing, in stages that resume where they were."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from models.loading.checkpoint import TINY

app = command_app("Makes the tiny bundle: songs, networks trained on them, and CARD.md with what they can do.")


@app.command(epilog=example("python -m recipe --work recipe-work"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of the stages' states; rerun to go on.")] = Path("recipe-work"),
    out: Annotated[Path, typer.Option(help="Where the finished bundle goes.")] = TINY,
    workers: Annotated[int, typer.Option(help="Processes that render songs.")] = 2,
    only: Annotated[str, typer.Option(help="One stage alone; those before it must be done.")] = "",
) -> None:
    from recipe.stages import Recipe, RecipeSettings

    Recipe(work, RecipeSettings(), out=out, workers=workers).run_all(only)


if __name__ == "__main__":
    run(app)

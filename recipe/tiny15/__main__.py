"""`python -m recipe.tiny15` makes models/tiny15/."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from models.loading.checkpoint import TINY15
from recipe.tiny15.networks import write_bundle

app = command_app("Makes the small networks of models/tiny15/, with random weights.")


@app.command(epilog=example("python -m recipe.tiny15 --out models/tiny15"))
def main(out: Annotated[Path, typer.Option(help="Where the bundle goes.")] = TINY15) -> None:
    write_bundle(out)


if __name__ == "__main__":
    run(app)

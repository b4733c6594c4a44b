"""`python -m recipe.objectives` compares the objectives on a bundle, in units that resume where they were."""

from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from common.config import load_config
from models.loading.checkpoint import TINY

app = command_app("Trains an adapter for every objective at equal cost and measures whether its bands fit the vocal.")


@app.command(
    epilog=example(
        "python -m recipe.objectives --bundle models/tiny --out docs/objectives.md",
        'python -m recipe.objectives --set training_seconds=1800 --set \'arms=["bridge_vp", "controlnet"]\'',
    )
)
def main(
    bundle: Annotated[Path, typer.Option(help="The base model.", metavar="DIR")] = TINY,
    work: Annotated[
        Path, typer.Option(help="Folder of songs, trainings and bands; rerun to go on.", metavar="DIR")
    ] = Path("recipe-work/objectives"),
    out: Annotated[
        Path, typer.Option(help="Document that gets the tables; the same as JSON beside it.", metavar="FILE")
    ] = Path("recipe-work/objectives.md"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; may be repeated.", metavar="NAME=VALUE")
    ] = None,
) -> None:
    from recipe.objectives.experiment import Experiment
    from recipe.objectives.report import write_report
    from recipe.objectives.settings import ObjectivesSettings

    resolved = load_config(ObjectivesSettings, None, settings or [])
    write_report(Experiment(bundle, work, resolved).run(), out)
    typer.echo(out)


if __name__ == "__main__":
    run(app)

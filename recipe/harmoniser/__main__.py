"""`python -m recipe.harmoniser` makes models/tiny/harmoniser/; run again, it goes on."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from common.command import command_app, example, run
from models.harmony.network import HarmonyNetwork, HarmonyShape, save_harmony_network
from models.harmony.trained import SHIPPED_HARMONISER
from recipe.harmoniser.examples import HarmoniserSettings
from recipe.harmoniser.training import train_harmoniser

app = command_app("Makes the harmony network of models/tiny/harmoniser/.")


@app.command(epilog=example("python -m recipe.harmoniser --work recipe-work/harmoniser"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of the training; rerun to go on.")] = Path("harmoniser-work"),
    out: Annotated[Path, typer.Option(help="Where config.json and the weights go.")] = SHIPPED_HARMONISER,
) -> None:
    torch.manual_seed(0)
    network = HarmonyNetwork(HarmonyShape())
    train_harmoniser(work, network, HarmoniserSettings(), seed=0)
    save_harmony_network(out, network)


if __name__ == "__main__":
    run(app)

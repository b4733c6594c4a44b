"""The training of the harmony network on made-up songs."""

from pathlib import Path

from torch import Tensor

from models.harmony.network import HarmonyNetwork
from recipe.harmoniser.examples import HarmoniserSettings, draw_example
from train.fitting import Draws, Trained, fit
from train.harmony.examples import harmony_losses


def train_harmoniser(folder: Path, network: HarmonyNetwork, settings: HarmoniserSettings, *, seed: int) -> Trained:
    """Train `network` in place; a run that was killed goes on from `folder`. Raises UserError for other settings."""

    def losses(draws: Draws) -> dict[str, Tensor]:
        return harmony_losses(network, [draw_example(draws.numpy, settings) for _ in range(settings.training.batch)])

    return fit(folder, network, losses, settings.training, about=settings, seed=seed)

"""`python -m recipe.objectives.shipped` makes models/tiny/adapters/: what `infer` uses where no adapter is named.

Trained on made-up songs with their true lead sheets; docs/objectives.md has what their bands do. Run again, it goes on.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from common.command import command_app, example, run
from models.adapters.adapter import read_card, rewrite_card, whole_folder
from models.adapters.shipped import SHIPPED
from models.loading.checkpoint import TINY
from recipe.objectives.settings import INSIDE, ObjectivesSettings, SongSettings, arm_of, changed_sampler
from recipe.objectives.songs import make_shards, write_songs
from recipe.objectives.training import placed, train, training_config

ARMS = {"controlnet": "controlnet+noise+lead_sheet", "image2image": "bridge_vp+lead_sheet"}
"""What is trained, by the name of its folder."""
SETTINGS = ObjectivesSettings(songs=SongSettings(training=160), training_steps=500)

app = command_app("Makes the adapters of models/tiny/adapters/.")


@app.command(epilog=example("python -m recipe.objectives.shipped --work recipe-work/adapters"))
def main(
    work: Annotated[Path, typer.Option(help="Folder of songs, shards and trainings; rerun to go on.")] = Path(
        "adapters-work"
    ),
    out: Annotated[Path, typer.Option(help="Where the adapters go.")] = SHIPPED,
) -> None:
    make_adapters(work, out, SETTINGS)


def make_adapters(work: Path, out: Path, settings: ObjectivesSettings) -> None:
    """Songs, shards, a training for each of ARMS, and its last adapter in `out`."""
    songs, shards, seconds = work / "songs", work / "shards", settings.songs.lengths["training"]
    write_songs(songs, settings.songs.training_seeds, seconds)
    make_shards(songs, shards, TINY, seconds=seconds)
    assert settings.training_steps is not None
    for name, arm in ARMS.items():
        config = training_config(arm_of(arm), settings, steps=settings.training_steps, seed=settings.seeds[0])
        made = train(placed(config, shards=shards, logs=work / "trainings" / name), TINY)
        with whole_folder(out / name) as folder:
            shutil.copytree(made, folder, dirs_exist_ok=True)
            card = read_card(folder)
            sampler = changed_sampler(card.sampler, (f"steps={settings.sampler.steps}", *INSIDE))
            rewrite_card(folder, card.model_copy(update={"sampler": sampler}))


if __name__ == "__main__":
    run(app)

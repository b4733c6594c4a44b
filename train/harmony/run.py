"""`train harmoniser`: shards in, a harmoniser out, in an adapter's folder or one of its own."""

from dataclasses import dataclass
from pathlib import Path

from common.bases import CONFIG_FILE
from common.errors import UserError
from common.files import check_writable
from common.table import in_columns
from models.adapters.adapter import HARMONISER_FOLDER, AdapterCard, read_card, rewrite_card
from models.harmony.network import WEIGHTS_FILE, harmony_network_hash, open_harmony_network
from models.harmony.trained import SHIPPED_HARMONISER
from shards.location import location_of
from train.harmony.songs import read_sung_songs
from train.harmony.training import TRAINING_FILE, HarmonyTraining, train_harmony

HELD_OUT_SHARE = 0.15
"""Least share of the songs that is held out; those that the adapter's own training kept are among them."""
NOTHING = "none"
OWN_FILES = {CONFIG_FILE, WEIGHTS_FILE, TRAINING_FILE}


@dataclass(frozen=True)
class MadeHarmoniser:
    """A harmoniser, and where it lies."""

    folder: Path
    training: HarmonyTraining


def harmoniser_of_shards(
    shards: str, *, adapter: Path | None, out: Path | None, init_from: str | None, seed: int
) -> MadeHarmoniser:
    """Train on the songs of shards, and write to the adapter's folder, whose card notes it, or to `out`.

    Raises UserError unless one of the two is given, for an adapter that takes no lead sheet, for a folder that holds
    something else, and for shards that cannot teach it.
    """
    if (adapter is None) == (out is None):
        raise UserError(
            "the harmoniser goes into an adapter's folder (--adapter) or its own (--out). Give one of them."
        )
    card = None if adapter is None else _card(adapter)
    folder = adapter / HARMONISER_FOLDER if adapter is not None else out
    assert folder is not None
    _check_free(folder)
    kept = None if card is None else card.val_fraction
    share = max(HELD_OUT_SHARE, kept or 0.0)
    start = None if init_from == NOTHING else SHIPPED_HARMONISER if init_from is None else Path(init_from)
    if start is not None:
        open_harmony_network(start)  # refused before the beats of all songs are sought
    songs = read_sung_songs(location_of(shards), share)
    made = train_harmony(songs, folder, start=start, seed=seed)
    if adapter is not None and card is not None:
        rewrite_card(adapter, card.model_copy(update={"harmoniser": harmony_network_hash(folder)}))
    return MadeHarmoniser(folder, made)


def _card(adapter: Path) -> AdapterCard:
    card = read_card(adapter)
    if card.conditioning.lead_sheet is None:
        raise UserError(
            f"{adapter}: takes no lead sheet, so that no harmoniser would change its bands. Train it with --set "
            "accompaniment.lead_sheet=true, or give --out."
        )
    return card


def _check_free(folder: Path) -> None:
    """Raises UserError where anything but an older harmoniser would be replaced."""
    check_writable(folder)
    others = sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES) if folder.is_dir() else []
    if others:
        raise UserError(f"{folder}: holds {others[0]}, which is no part of a harmoniser. Choose another folder.")


def described(made: HarmonyTraining) -> str:
    """What was learned from, and a row of figures for each who names chords and keys of the songs held out."""
    rows = [("", "log p of a chord", "log p of a key", "chords", "signature", "key")]
    for name, score in made.scores.items():
        figures = score.chord_log_likelihood, score.key_log_likelihood, score.chords, score.signature, score.key
        rows.append((name, *("-" if figure is None else f"{figure:.2f}" for figure in figures)))
    learned = (
        f"{made.training_songs} songs to learn from, {made.held_out_songs} held out; their beats, found by rules: "
        f"F {made.beats.beats:.2f}, tempo right in {made.beats.tempo:.2f}"
    )
    chosen = f"step {made.chosen_step} of {made.steps} does best on the songs held out"
    if made.chosen_step == 0:
        chosen += ": what the training started from, which these songs made no better"
    return "\n".join([learned, in_columns(rows), chosen])

"""Every JSON in configs/ loads with the class that reads it, by its bare name."""

import re
from pathlib import Path

import pytest

from common.bases import BASES
from common.config import CONFIGS, load_config
from common.presets import preset_for
from prep.config import PrepConfig
from train.config import TrainingConfig
from train.search.config import OptunaConfig
from train.search.space import space_of

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in CONFIGS.iterdir())


def class_of(name: str) -> type[PrepConfig] | type[OptunaConfig] | type[TrainingConfig]:
    if name.endswith("_search"):
        return OptunaConfig
    return PrepConfig if name.startswith("prep") else TrainingConfig


def test_configs_holds_json_only():
    assert {path.suffix for path in CONFIGS.iterdir() if path.name != "__pycache__"} == {".json"}
    assert {"prep_base", "image2image_base", "controlnet_base", "tiny_image2image", "tiny_controlnet"} <= set(NAMES)
    assert {"optuna_search", "tiny_search"} <= set(NAMES)


def test_all_json_goes_through_one_reader():
    """So that a byte order mark is no error anywhere, and a comment or a comma too many is told everywhere alike."""
    rooms = ("common", "models", "shards", "prep", "train", "infer", "demo")
    own = {
        "common/config.py",
        "common/safetensors_header.py",
        "shards/tar.py",
    }  # the last two read what was just written
    readers = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\bjson\.loads?\(", path.read_text(encoding="utf-8"))
    }
    assert readers == own


def test_every_number_of_songs_has_a_shipped_preset():
    assert {songs: preset_for(songs) for songs in (1, 20, 100, 101, 1000, 50_000)} == {
        1: "singer", 20: "singer", 100: "singer", 101: "studio", 1000: "studio", 50_000: "studio"
    }  # fmt: skip
    assert {"singer", "studio"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_loads_by_its_bare_name(name):
    load_config(class_of(name), name)


@pytest.mark.parametrize("mode", ["image2image", "controlnet", "context"])
@pytest.mark.parametrize("run", ["{}_base", "tiny_{}"])
def test_a_config_named_after_a_mode_trains_it_on_every_base_that_has_it(mode, run):
    """ACE-Step 1.5 turns a mode that was left open into context."""
    config = load_config(TrainingConfig, run.format(mode))
    for spec in BASES.values():
        if mode != "context" or spec.has_source_slot:
            assert config.on(spec).accompaniment.mode == mode


@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
@pytest.mark.parametrize(("search", "run"), [("optuna_search", "{}_base"), ("tiny_search", "tiny_{}")])
def test_a_shipped_search_suits_the_shipped_runs(mode, search, run):
    assert space_of(load_config(TrainingConfig, run.format(mode)), load_config(OptunaConfig, search)).parameters

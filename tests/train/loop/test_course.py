"""A run says what it will cost: how often each song is trained on, and how long that takes."""

import re

import pytest

from common.bases import ACE_STEP_15, BaseOrigin
from common.config import load_config
from shards.reader import read_manifest
from train.config import TrainingConfig
from train.data.loader import split
from train.loop.course import describe_course
from train.loop.fit import fit

PUBLISHED = BaseOrigin(family="ace-step-1")


@pytest.fixture
def described(song_shards):
    """described(songs, "singer", **settings): what a run on so many songs of four minutes says at its start.

    Preparation alone: a manifest lists the songs, of which there is nothing else.
    """
    written = read_manifest(song_shards)
    shard, song, segment = written.shards[0], written.shards[0].songs[0], written.shards[0].segments[0]

    def describe(songs, preset, *, base=PUBLISHED, pitches=1, devices=1, **settings):
        keys = {f"s{n}_{pitch}": f"s{n}_0" for n in range(songs) for pitch in range(pitches)}
        frames = round(240 * base.spec.latents.frames_per_second)
        entries = {
            "songs": [
                song.model_copy(update={"key": key, "parent": None if key == given else given})
                for key, given in keys.items()
            ],
            "segments": [
                segment.model_copy(update={"key": f"{key}_000", "song": key, "frames": frames}) for key in keys
            ],
        }
        manifest = written.model_copy(update={"base": base, "shards": (shard.model_copy(update=entries),)})
        config = load_config(TrainingConfig, preset, [f"{name}={value}" for name, value in settings.items()])
        training = split(manifest, config.val_fraction).training
        return describe_course(config, manifest, training, devices=devices).splitlines()

    return describe


@pytest.mark.parametrize(
    ("songs", "preset", "cost"),
    [
        (20, "singer", "2000 steps of 8 clips: 800 epochs of 1.2 hours of music"),
        (100, "singer", "2000 steps of 8 clips: 174 epochs of 6.07 hours of music"),
        (1000, "studio", "20000 steps of 16 clips: 352 epochs of 60.6 hours of music"),
    ],
)
def test_twenty_a_hundred_and_a_thousand_songs_have_a_preset_that_does_not_learn_them_by_heart(
    described, songs, preset, cost
):
    (line,) = described(songs, preset)
    steps, epochs = re.findall(r"^\d+ steps|[0-9.]+ epochs", cost)
    assert line == f"{cost}; the preset for {songs} songs is {preset} (--config {preset}: {steps}, {epochs})"


@pytest.mark.parametrize(
    ("songs", "preset", "settings", "told"),
    [
        (
            20,
            "controlnet_base",
            {},
            "lower max_steps (1000 epochs are 4500), or set early_stop_patience, or take the preset",
        ),
        (20, None, {"early_stop_patience": 4}, "lower max_steps (1000 epochs are 18000), or take the preset"),
        (20, "singer", {"max_steps": 2600}, "lower max_steps (1000 epochs are 2500), or take the preset"),
        (3, "singer", {}, "lower max_steps (1000 epochs are 500)"),
        (1000, "studio", {"max_steps": 60_000}, "lower max_steps (1000 epochs are 56875), or take the preset"),
    ],
)
def test_nobody_gets_thousands_of_epochs_without_being_told(described, songs, preset, settings, told):
    _, second = described(songs, preset, **settings)
    assert second == f"more than 1000 epochs: songs will be learnt by heart. Way out: {told}."


def test_a_song_at_other_pitches_is_one_song_with_more_to_train_on(described):
    (line,), (more,) = described(20, "singer"), described(20, "singer", pitches=6)
    assert "the preset for 20 songs is singer" in line
    assert "the preset for 20 songs is singer" in more
    assert "800 epochs of 1.2 hours" in line
    assert "148 epochs of 7.2 hours" in more


def test_bundles_have_a_config_of_their_own(described):
    tiny, tiny15 = BaseOrigin(family="tiny"), BaseOrigin(model=ACE_STEP_15.name, family="tiny15")
    (line,) = described(1000, "tiny_controlnet", base=tiny)
    assert line.endswith(
        "the preset for 1000 songs is studio; the bundle tiny takes tiny_controlnet "
        "(--config tiny_controlnet: 60 steps, 0.263 epochs)"
    )
    assert "--config tiny_context" in described(20, "tiny_context", base=tiny15)[0]


def test_devices_share_an_epoch(described):
    one, four = (described(100, "singer", devices=devices)[0] for devices in (1, 4))
    assert "2000 steps of 8 clips: 174 epochs" in one
    assert "2000 steps of 32 clips: 696 epochs" in four


def test_a_run_says_its_epochs_at_its_start_and_its_hours_soon_after(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=14, val_fraction=0.0, accumulate_grad_batches=1, checkpoint_every_n_steps=5))
    said = capsys.readouterr().err
    assert re.search(r"^14 steps of 2 clips: 2\.33 epochs of 0\.00\d+ hours of music; the preset for", said, re.M)
    assert re.search(r"^\d+\.\d\d s a step: \S+ hours for the 1 steps left$", said, re.M)
    assert said.index("epochs of") < said.index("stay frozen") < said.index("s a step")
    ((count, each),) = re.findall(r"^an adapter each 5 steps .*: (\d) of (\S+) MB, ", said, re.M)
    written = sorted(next((song_shards.parent / "runs").glob("*/*/checkpoints")).glob("*_lora"))
    assert len(written) == int(count) == 3
    weights = sum(path.stat().st_size for path in written[0].rglob("*.safetensors"))
    assert weights == pytest.approx(float(each) * 1e6, rel=0.1)


def test_a_run_that_is_over_before_that_says_no_hours(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=2, val_fraction=0.0))
    assert "s a step" not in capsys.readouterr().err

"""A run says what it will cost: how often each song is trained on, and how long that takes."""

import re

import pytest

from common.bases import ACE_STEP_1
from common.config import load_config
from train.config import TrainingConfig
from train.data.plan import Segment
from train.loop.course import plan_course
from train.loop.fit import fit

LATENTS = ACE_STEP_1.latents


def made_up_songs(count):
    """Songs of four minutes, a tenth of which is kept for validation."""
    frames = round(240 * LATENTS.frames_per_second)
    return [Segment(f"s{number}_000", f"s{number}", frames, number // 64) for number in range(count - count // 10)]


@pytest.mark.parametrize(
    ("songs", "preset", "epochs"), [(20, "singer", 800.0), (100, "singer", 173.91), (1000, "studio", 355.56)]
)
def test_twenty_a_hundred_and_a_thousand_songs_have_a_preset_that_does_not_learn_them_by_heart(songs, preset, epochs):
    course = plan_course(load_config(TrainingConfig, preset), made_up_songs(songs), LATENTS, songs=songs, devices=1)
    assert course.epochs == pytest.approx(epochs, abs=0.01)
    (line,) = course.described().splitlines()
    hours = (songs - songs // 10) * 240 / 3600
    assert line.endswith(f"of {hours:.3g} hours of music; the preset for {songs} songs is {preset} (--config {preset})")


def test_nobody_gets_thousands_of_epochs_without_being_told():
    course = plan_course(
        load_config(TrainingConfig, "controlnet_base"), made_up_songs(40), LATENTS, songs=40, devices=1
    )
    first, second = course.described().splitlines()
    assert first.startswith("200000 steps of 4 clips: 2.222e+04 epochs of 2.4 hours of music; the preset for 40 songs")
    assert second == (
        "more than 1000 epochs: songs will be learnt by heart. Lower max_steps, set early_stop_patience, or take the "
        "preset."
    )


def test_devices_share_an_epoch():
    config = load_config(TrainingConfig, "singer")
    one, four = (plan_course(config, made_up_songs(100), LATENTS, songs=100, devices=devices) for devices in (1, 4))
    assert (one.clips, four.clips) == (8, 32)
    assert four.epochs == pytest.approx(4 * one.epochs)


def test_a_run_says_its_epochs_at_its_start_and_its_hours_soon_after(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=14, val_fraction=0.0, accumulate_grad_batches=1))
    said = capsys.readouterr().err
    assert re.search(r"^14 steps of 2 clips: 2\.333 epochs of 0\.00\d+ hours of music; the preset for", said, re.M)
    assert re.search(r"^\d+\.\d\d s a step: \S+ hours for the 1 steps left$", said, re.M)
    assert said.index("epochs of") < said.index("s a step")


def test_a_run_that_is_over_before_that_says_no_hours(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=2, val_fraction=0.0))
    assert "s a step" not in capsys.readouterr().err

"""What an adapter is worth on few songs of another style: the styles are apart, and the comparison runs and goes on."""

from itertools import islice

import pytest

from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.world import draw_world
from recipe.objectives.settings import FIRST_SEED, ObjectivesSettings, SongSettings
from recipe.objectives.start import MEASURES, StartSettings, compare_starts, seeds_of


def test_styles_are_apart_and_so_are_songs_that_judge():
    with_drums, without = (list(islice(seeds_of(FIRST_SEED, drums=drums), 60)) for drums in (True, False))
    assert not {*with_drums} & {*without}
    assert all("drums" in draw_world(seed, 10.0).players for seed in with_drums)
    assert not any("drums" in draw_world(seed, 10.0).players for seed in without)
    assert max(with_drums + without) < HELD_OUT_SEED <= next(seeds_of(HELD_OUT_SEED, drums=False))


@pytest.mark.slow
def test_each_start_is_trained_and_judged_once(tmp_path, capsys):
    training = ("lora.r=2", "batch_size=2", "warmup_steps=1", "accompaniment.reference_strength=1")
    toy = ObjectivesSettings(songs=SongSettings(seconds=3.0), training=training, sampler={"steps": 2})
    settings = StartSettings(many=2, few=2, judged=2, long_steps=2, short_steps=1, seeds=(0,), objectives=toy)
    found = compare_starts(tmp_path, settings)
    assert [one.name for one in found][1:3] == ["short training from nothing", "short training from the first"]
    assert all(len(one.own[measure]) == 2 for one in found for measure in MEASURES)
    capsys.readouterr()
    assert compare_starts(tmp_path, settings) == found
    assert "train:" not in capsys.readouterr().err

import shutil
from pathlib import Path

import pytest
import soundfile

from demo.road import MODES, Road, RoadConfig, told, walk
from prep.demo_songs import HELD_OUT_SEED

SHORT = RoadConfig(songs=3, seconds=3, train_steps=1, infer_steps=1)


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    return walk(tmp_path_factory.mktemp("demo") / "backline-demo", SHORT)


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


def test_it_ends_with_a_band_in_each_mode(road):
    vocal = soundfile.info(road.out / "held-out" / f"song-{HELD_OUT_SEED}_vocal.flac")
    for mode in MODES:
        (band,), (mix,) = road.made[mode].accompaniments, road.made[mode].mixes
        for path in (band, mix):
            info = soundfile.info(path)
            assert (info.samplerate, info.channels) == (48_000, 2)
            assert info.frames == round(vocal.frames * 48_000 / vocal.samplerate)
    assert not [path for path in (road.out / "songs").iterdir() if str(HELD_OUT_SEED) in path.name]


def test_it_tells_what_was_made_and_what_comes_next(road):
    text = told(road)
    for mode in MODES:
        assert str(road.made[mode].mixes[0].relative_to(road.out)) in text
    for line in text.replace(str(road.out), "backline-demo").splitlines():
        assert len(line) <= 120 or line.lstrip().startswith("$")
    assert "$ prep build-shards my-songs/ shards/" in text


def test_a_second_walk_trains_nothing_and_ends_the_same(road, capsys):
    before = {path: path.stat().st_mtime_ns for path in (road.out / "training").rglob("*.safetensors")}
    wavs = written(road.out)
    again = walk(road.out, SHORT)
    assert again.adapters == road.adapters
    assert before == {path: path.stat().st_mtime_ns for path in (road.out / "training").rglob("*.safetensors")}
    assert written(road.out) == wavs
    assert "image2image: trained already" in capsys.readouterr().err


def test_a_longer_walk_goes_on_where_the_shorter_ended(road, tmp_path):
    shutil.copytree(road.out, tmp_path / "longer")
    longer = walk(tmp_path / "longer", SHORT.model_copy(update={"train_steps": 2}))
    for mode in MODES:
        assert longer.adapters[mode].parent == tmp_path / "longer" / "training" / f"tiny_{mode}/version_0/checkpoints"
        assert longer.adapters[mode].name.endswith("step=2_lora")

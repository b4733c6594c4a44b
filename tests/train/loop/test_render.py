import shutil
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import UserError
from models.loading.checkpoint import TINY
from shards.reader import read_manifest
from train.loop.fit import fit
from train.loop.render import make_rendering

pytestmark = pytest.mark.usefixtures("few_clips")


@pytest.fixture(scope="module")
def opened():
    """Every path that this process opens from now on."""
    paths, listening = [], True
    sys.addaudithook(lambda event, given: paths.append(str(given[0])) if listening and event == "open" else None)
    yield paths
    listening = False  # a hook cannot be taken away


def trained(outcome):
    return torch.load(outcome.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def few_steps(monkeypatch):
    """Two sampling steps instead of sixty."""
    from train.loop.card import trained_sampler

    def few(*run):
        return trained_sampler(*run).model_copy(update={"steps": 2})

    monkeypatch.setattr("train.loop.render.trained_sampler", few)


def test_rendered_songs_are_heard_and_seen_and_training_does_not_notice(song_shards, tiny_config, opened, few_steps):
    opened.clear()
    settings = {"max_steps": 2, "crop_seconds": 0.8, "ema_decay": 0.5, "gradient_checkpointing": True}
    without = fit(tiny_config(song_shards, "controlnet", exp_name="without", **settings))
    rooms = {part for path in opened for part in Path(path).parts}
    assert not {"music_dcae_f8c8", "music_vocoder", "umt5-base"} & rooms
    rendered = fit(tiny_config(song_shards, "controlnet", exp_name="with", render_every_n_steps=1, **settings))
    rooms = {part for path in opened for part in Path(path).parts}
    assert {"music_dcae_f8c8", "music_vocoder"} <= rooms
    assert "umt5-base" not in rooms

    one, other = trained(without), trained(rendered)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert without.figures == rendered.figures

    shown = EventAccumulator(str(rendered.folder), size_guidance={"audio": 0, "images": 0}).Reload()
    for kind, read in [("audio", shown.Audio), ("images", shown.Images)]:
        names = shown.Tags()[kind]
        assert sorted(name.rpartition("/")[2] for name in names) == ["made", "made", "true", "true"]
        for name in names:
            steps = [1, 2] if name.endswith("made") else [1]
            assert [event.step for event in read(name)] == steps
    audio = shown.Audio(next(name for name in shown.Tags()["audio"] if name.endswith("made")))[0]
    assert audio.sample_rate == 44_100
    assert audio.length_frames % 4096 == 0


def test_a_base_without_decoder_is_noticed_once_and_trains(song_shards, tiny_config, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(TINY / "ace_step_transformer", base / "ace_step_transformer")
    outcome = fit(tiny_config(song_shards, max_steps=2, render_every_n_steps=1), checkpoint_dir=str(base))
    assert outcome.step == 2
    assert (
        capsys.readouterr().err.count(
            f"render_every_n_steps: nothing will be rendered. {base}: there is no music_dcae_f8c8/ in it."
        )
        == 1
    )


def test_no_validation_songs_is_noticed(song_shards, tiny_config, capsys):
    fit(tiny_config(song_shards, max_steps=1, val_fraction=0.0, render_every_n_steps=1))
    said = capsys.readouterr().err
    assert "render_every_n_steps: nothing will be rendered, there are no songs to validate on." in said


def test_no_other_codec_renders(song_shards, tiny_config):
    """Training needs no codec, so that one fetched for this alone is compared here."""
    manifest = read_manifest(song_shards)
    fingerprint = manifest.fingerprint.model_copy(update={"networks": {"music_dcae_f8c8": "a" * 64}})
    other = manifest.model_copy(update={"fingerprint": fingerprint})
    with pytest.raises(UserError, match=r"made with music_dcae_f8c8 aaaaaaaa, that of tiny is"):
        make_rendering(tiny_config(song_shards, render_every_n_steps=1), [], "tiny", other)

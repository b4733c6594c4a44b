"""What goes wrong amid a run is one line, and what was saved before stays."""

from pathlib import Path

import pytest
from lightning.pytorch import Callback

import train.data.loader
from common.command import run
from common.errors import UserError
from train.cli import app
from train.loop.checkpoint import find_last
from train.loop.fit import fit


class AtStep(Callback):
    """Does something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act()


@pytest.fixture
def failing(song_shards, tiny_config):
    """failing(act) is (error, config) of a run of six steps that saves after three, where `act` follows the fourth."""

    def fail(act, **settings):
        given = {"val_fraction": 0.0, "accumulate_grad_batches": 1, "checkpoint_every_n_steps": 3} | settings
        config = tiny_config(song_shards, max_steps=6, **given)
        with pytest.raises(UserError) as caught:
            fit(config, callbacks=[AtStep(4, act)])
        return str(caught.value), config

    return fail


def assert_it_goes_on(config):
    assert sorted(path.name for path in find_last(config).parent.iterdir()) == ["epoch=0-step=3_lora", "last.ckpt"]
    assert fit(config, resume_from=find_last(config)).step == 6


def test_a_shard_that_vanishes(failing, song_shards, monkeypatch):
    monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", 0.0)
    away = song_shards.with_name("away")
    error, config = failing(lambda: song_shards.rename(away), batch_size=3, num_workers=0)
    name = Path(error.partition(": ")[0])
    assert name.parent == song_shards
    assert error == f"{name}: missing, though the manifest names it. Build again, or restore the file."
    away.rename(song_shards)
    assert_it_goes_on(config)


@pytest.mark.parametrize(
    ("room", "name"),
    [(60_000, "epoch=0-step=6_lora"), pytest.param(500_000, "last.ckpt", marks=pytest.mark.slow)],
    ids=["adapter", "checkpoint"],
)
def test_a_full_disk(failing, room, name):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        error, config = failing(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = find_last(config).parent
    assert error.startswith(f"{folder / name}: cannot be written (")
    assert error.count("\n") == 0
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    complete = {path.name for path in (folder / "epoch=0-step=3_lora").iterdir()}
    assert all({path.name for path in adapter.iterdir()} == complete for adapter in folder.glob("*_lora"))
    assert fit(config, resume_from=find_last(config)).step == 6


def test_another_base_or_mode_on_resume_is_one_line_and_code_2(song_shards, tiny_config, tmp_path, monkeypatch, capsys):
    config = tiny_config(song_shards, max_steps=1, val_fraction=0.0)
    fit(config)
    saved = find_last(config).read_bytes()
    (tmp_path / "config.json").write_text(config.model_copy(update={"max_steps": 2}).model_dump_json())
    last = find_last(config)

    def complaint(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run(app, ["run", "--config", str(tmp_path / "config.json"), "--resume", *arguments])
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()[-1]

    assert complaint("--set", "accompaniment.mode=controlnet") == (
        f"error: {last}: trained with accompaniment.mode image2image, now it is controlnet. "
        "Resume with the first, or start anew."
    )
    monkeypatch.setattr("train.loop.preparation.part_hash", lambda *_: "c" * 64)
    assert complaint().endswith("this one is cccccccc. Give the --checkpoint-dir of the first run.")
    assert last.read_bytes() == saved

"""Training with lead sheets: refused without any, kept in the adapter, resumed bit for bit, seen by validation."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

import train.data.loader
from common.music.notation import read_lead_sheet
from models.adapters.adapter import LEAD_SHEET_FILE, read_card
from models.adapters.conditioning import LeadSheetShape
from models.loading.checkpoint import TINY
from train.data.loader import ShardSamples
from train.loop.fit import fit
from train.loop.preparation import make_data, make_module, open_shards
from train.loop.validation import LEAD_SHEET_GAINS

pytestmark = pytest.mark.usefixtures("few_clips")

SHEET = read_lead_sheet("key: A minor\ntime: 4/4\nbpm: 140\noffset: -0.4\n| Am | F | C | G |")
LEAD_SHEET = {"depth": 1, "dim": 32, "dropout": 0.2}
MODES = pytest.mark.parametrize("mode", ["image2image", "controlnet"])


@pytest.fixture
def shards(make_shards):
    """Nine songs, all but the last with a lead sheet of their own."""
    sheets = {f"song{number}": SHEET.shifted(number) for number in range(8)}
    return make_shards({f"song{number}": [24 + 5 * (number % 2)] for number in range(9)}, lead_sheets=sheets)


@pytest.fixture
def opened(shards, tiny_config):
    """opened(mode) is (module on the tiny base, data)."""

    def open_it(mode, **settings):
        config = tiny_config(shards, mode, accompaniment={"lead_sheet": LEAD_SHEET}, ssl_coeff=0.0, **settings)
        data = make_data(config, open_shards(config, features=False))
        return make_module(config, TINY, "b" * 64, data), data

    return open_it


def batch_of(data, *songs):
    keys = {f"{song}_000" for song in songs}
    assert isinstance(data.samples, ShardSamples)
    samples = data.samples.load(range(len(data.manifest.shards)), keys)
    return data.maker.batch([samples[key] for key in sorted(keys)], epoch=0)


@MODES
def test_the_gradient_reaches_the_lead_sheet_encoder(opened, mode):
    module, data = opened(mode)
    batch = batch_of(data, "song0", "song2", "song4")
    batch = replace(batch, source=replace(batch.source, lead_sheet_strength=torch.ones(3)))
    module.losses(batch).total.backward()
    network = module.conditioner.lead_sheet
    assert all(out.weight.grad.abs().max() > 0 for out in network.out)
    for out in network.out:
        torch.nn.init.normal_(out.weight, std=0.02)
    module.losses(batch).total.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@MODES
def test_a_clip_without_sheet_and_vocal_is_text2music(opened, mode):
    module, data = opened(mode)
    for parameter in module.conditioner.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = batch_of(data, "song0", "song2")
    muted = replace(batch, source=batch.source.muted())
    bare = replace(batch, source=replace(muted.source, lead_sheet=None, lead_sheet_strength=None))
    with torch.no_grad():
        losses = [module.losses(one).of_clips for one in (muted, bare)]
        module.conditioner = None
        losses.append(module.losses(bare).of_clips)
        told = module.losses(batch).of_clips
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert torch.isfinite(told).all()


@MODES
def test_validation_tells_what_the_sheet_is_worth(opened, mode):
    module, data = opened(mode, val_fraction=0.3)
    fresh = data.validation(module)
    assert {fresh.gains[name].value for name in LEAD_SHEET_GAINS} == {0.0}
    for out in module.conditioner.lead_sheet.out:
        torch.nn.init.normal_(out.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    figures = data.validation(module).named()
    assert all(figures[f"val/{name}"] != 0.0 for name in LEAD_SHEET_GAINS)


@pytest.mark.parametrize("mode", [pytest.param("image2image", marks=pytest.mark.slow), "controlnet"])
def test_resumed_equals_uninterrupted_and_the_adapter_holds_the_encoder(
    shards, tiny_config, monkeypatch, tmp_path, mode
):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.should_stop = batch_idx == 3

    monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", 0.0)
    config = tiny_config(shards, mode, max_steps=3, accompaniment={"lead_sheet": LEAD_SHEET}, ema_decay=0.9)
    stopped = fit(config, callbacks=[Stop()])
    assert stopped.step == 2
    resumed = fit(config, resume_from=stopped.folder / "checkpoints" / "last.ckpt")
    whole = fit(config.model_copy(update={"logger_dir": str(tmp_path / "whole")}))
    for file in ("pytorch_lora_weights.safetensors", LEAD_SHEET_FILE):
        one, other = (load_file(run.adapter / file) for run in (resumed, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_file(whole.adapter / LEAD_SHEET_FILE)["out.0.weight"].any()
    shape = read_card(whole.adapter).conditioning.lead_sheet
    assert shape == LeadSheetShape(depth=1, dim=32, injection_layers=config.accompaniment.injection_layers)


def test_it_says_how_many_songs_have_a_sheet(opened, capsys):
    opened("image2image")
    assert "lead sheets: 8 of 9 songs have one; the others train without" in capsys.readouterr().err


def test_shards_without_any_sheet_are_one_line_and_code_2(song_shards, capsys):
    from common.command import run
    from train.cli import app

    flags = ["--set", "accompaniment.lead_sheet=true", "--set", "max_steps=1"]
    with pytest.raises(SystemExit) as stopped:
        run(app, ["run", "--config", "tiny_image2image", "--shards", str(song_shards), *flags])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {song_shards}: accompaniment.lead_sheet needs lead sheets, and no song of these shards has one. "
        "Put KEY_lead_sheet.txt beside songs and run prep build-shards again, or train without.\n"
    )

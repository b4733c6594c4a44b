"""Training that starts from an adapter: it is that adapter at step 0, and what does not fit is refused by name."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

import train.data.loader
from common.command import run
from common.errors import UserError
from common.music.notation import read_lead_sheet
from models.adapters.adapter import LEAD_SHEET_FILE, read_card, save_adapter
from models.loading.checkpoint import TINY, part_hash, spec_of
from train.cli import app
from train.loop.card import card_of
from train.loop.checkpoint import find_last
from train.loop.fit import fit
from train.loop.module import AccompanimentModule
from train.loop.preparation import make_data, make_module, open_shards

SHEET = read_lead_sheet("bpm: 120\n| C | Am |")
WITH_SHEET = {"lead_sheet": {"depth": 1, "dim": 32}}
LORA = {"r": 3, "lora_alpha": 5, "target_modules": ("to_q", "to_k")}
SHAPE = {"lora": LORA, "ssl_coeff": 0.0}


@pytest.fixture(scope="module")
def fingerprint() -> str:
    return part_hash(TINY, spec_of(TINY).parts.transformer)


@pytest.fixture
def shards_of(make_shards):
    """shards_of("name", 24) are nine songs with lead sheets, of so many frames each."""

    def make(folder: str, frames: int) -> Path:
        songs = {f"song{number}": [frames] for number in range(9)}
        return make_shards(songs, lead_sheets=dict.fromkeys(songs, SHEET), folder=folder)

    return make


@pytest.fixture
def save(fingerprint, tmp_path, monkeypatch):
    """save(config, "name") is the adapter that a run of `config` begins with; noise: with weights that are not zero."""

    def make(config, name: str, *, noise: bool = False) -> Path:
        data = make_data(config, open_shards(config, features=False))
        module = make_module(config, TINY, fingerprint, data)
        if noise:
            for parameter in module.trained.values():
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        assert data.manifest.base is not None
        with monkeypatch.context() as patched:
            patched.setattr(AccompanimentModule, "data_epoch", 0)  # Lightning's Trainer counts it
            card = card_of(module, data.manifest, data.manifest.base, {})
        save_adapter(tmp_path / name, module.transformer, module.conditioner, card)
        return tmp_path / name

    return make


def weights_of(folder):
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
def test_at_step_0_it_is_the_adapter_with_its_normalisation(shards_of, tiny_config, save, mode):
    shape = {**SHAPE, "lora": LORA | {"use_dora": True}, "accompaniment": WITH_SHEET}
    first = save(tiny_config(shards_of("shards", 24), mode, **shape), "first", noise=True)
    others = tiny_config(shards_of("others", 31), mode, **shape, init_from=str(first))
    again = save(others, "again")
    for file, weights in weights_of(first).items():
        torch.testing.assert_close(weights_of(again)[file], weights, rtol=1e-6, atol=0)
    assert read_card(again).statistics == read_card(first).statistics
    assert read_card(again).init_shards_fingerprint == read_card(first).shards_fingerprint
    fresh = save(others.model_copy(update={"init_from": None}), "fresh")
    assert read_card(fresh).statistics != read_card(first).statistics
    assert "init_shards_fingerprint" not in (fresh / "adapter.json").read_text()


def test_a_lead_sheet_encoder_that_it_lacks_is_fresh(shards_of, tiny_config, save):
    shards = shards_of("shards", 24)
    first = save(tiny_config(shards, "controlnet", **SHAPE), "first", noise=True)
    both = {**SHAPE, "accompaniment": WITH_SHEET}
    again = weights_of(save(tiny_config(shards, "controlnet", **both, init_from=str(first)), "again"))
    sheet = again.pop(LEAD_SHEET_FILE)
    assert not sheet["out.0.weight"].any()
    assert again.keys() == weights_of(first).keys()
    with_one = save(tiny_config(shards, "controlnet", **both), "with_one")
    with pytest.raises(UserError, match=r"conditioning\.lead_sheet\.depth is 1 there and null here"):
        save(tiny_config(shards, "controlnet", **SHAPE, init_from=str(with_one)), "without")


def test_every_difference_is_named(shards_of, tiny_config, save):
    shards = shards_of("shards", 24)
    first = save(tiny_config(shards, "controlnet", **SHAPE), "first")
    other = {**SHAPE, "lora": LORA | {"r": 4}, "accompaniment": {"control_encoder_depth": 3}}
    with pytest.raises(UserError) as refused:
        save(tiny_config(shards, "controlnet", **other, init_from=str(first)), "other")
    assert str(refused.value) == (
        f"{first}: cannot start from it: lora.r is 3 there and 4 here; conditioning.control.depth is 2 there and 3 "
        "here. Give the --config that it was trained with."
    )


def test_another_base_and_other_latents_are_refused(shards_of, tiny_config, save):
    config = tiny_config(shards_of("shards", 24), "image2image", **SHAPE)
    first = save(config, "first")
    card = first / "adapter.json"
    digest = read_card(first).base_fingerprint
    card.write_text(card.read_text().replace(digest, "f" * 64))
    with pytest.raises(UserError, match=f"made for the base ffffffff, this one is {digest[:8]}"):
        save(config.model_copy(update={"init_from": str(first)}), "again")


def test_the_command_says_where_it_starts_and_refuses_what_is_no_adapter(
    shards_of, tiny_config, save, tmp_path, capsys
):
    config = tiny_config(shards_of("shards", 24), "image2image", **SHAPE, max_steps=1, val_fraction=0.0)
    first = save(config, "first", noise=True)
    (tmp_path / "run.json").write_text(config.model_dump_json())

    def train_from(folder):
        with pytest.raises(SystemExit) as stopped:
            run(app, ["run", "--config", str(tmp_path / "run.json"), "--init-from", str(folder)])
        return stopped.value.code, capsys.readouterr().err

    code, said = train_from(first)
    assert code == 0
    assert f"starting from {first} (step 0)" in said
    code, said = train_from(tmp_path)
    assert code == 2
    assert said.startswith(f"error: {tmp_path}: no adapter.json inside.")


def test_resumed_equals_uninterrupted(shards_of, tiny_config, save, monkeypatch, tmp_path):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.should_stop = batch_idx == 3

    monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", 0.0)
    first = save(tiny_config(shards_of("shards", 24), "controlnet", **SHAPE), "first", noise=True)
    others = shards_of("others", 31)
    config = tiny_config(others, "controlnet", **SHAPE, init_from=str(first), max_steps=3, val_fraction=0.0)
    fit(config, callbacks=[Stop()])
    resumed = fit(config, resume_from=find_last(config))
    whole = fit(config.model_copy(update={"logger_dir": str(tmp_path / "whole")}))
    one, other = weights_of(resumed.adapter), weights_of(whole.adapter)
    assert all(torch.equal(tensor, other[file][name]) for file in one for name, tensor in one[file].items())
    assert read_card(resumed.adapter).statistics == read_card(first).statistics

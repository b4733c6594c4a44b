"""Training with feature losses, from shards that carry SSL features to the adapter."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train.data.loader
import train.loop.observe
from common.bases import ACE_STEP_1
from common.latents import LatentStatistics
from models.adapters.lora import LORA_FILE
from models.loading.checkpoint import TINY
from prep.encoding.ssl import FRAME_HOP, SSL_KINDS, ssl_features
from train.data.clips import ClipMaker
from train.loop.fit import fit
from train.loop.module import conditioning_of
from train.loop.preparation import make_data, make_module, open_shards

LATENTS = ACE_STEP_1.latents

BOTH = ("mert", "mhubert")
NOTICE = "these shards hold no SSL features: training without feature losses (prep build-shards --ssl makes them)"
STATISTICS = LatentStatistics(silence=((0.25,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8)


@pytest.fixture
def shards(make_shards):
    """shards("mert") holds five songs with these features."""

    def make(*features, **settings):
        return make_shards({f"song{n}": [24 + 5 * (n % 2)] for n in range(5)}, features=features, **settings)

    return make


@pytest.fixture
def short(tiny_config):
    """short(shards) trains for two steps of two batches."""

    def make(folder, **settings):
        return tiny_config(folder, **{"max_steps": 2, "val_fraction": 0.0} | settings)

    return make


@pytest.fixture
def opened(short):
    """opened(shards) is (module on the tiny base, its data)."""

    def make(folder, **settings):
        config = short(folder, **settings)
        data = make_data(config, open_shards(config, features=config.ssl_coeff > 0))
        return make_module(config, TINY, "b", data), data

    return make


@pytest.fixture
def curves(monkeypatch):
    """curves(outcome): name -> value after each step."""
    monkeypatch.setattr(train.loop.observe, "EVERY_N_STEPS", 1)

    def read(outcome):
        events = EventAccumulator(str(outcome.folder)).Reload()
        return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}

    return read


def lora_of(outcome):
    return load_file(outcome.adapter / LORA_FILE)


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_shows_the_feature_losses_and_learns_from_them(shards, short, curves, capsys):
    folder = shards(*BOTH)
    with_features, without = (fit(short(folder, ssl_coeff=coeff, exp_name=f"ssl{coeff}")) for coeff in (0.5, 0.0))
    shown = curves(with_features)
    mert, mhubert = shown["train/mert_loss"], shown["train/m-hubert_loss"]
    assert len(mert) == len(mhubert) == 2
    assert all(0.9 < loss < 1.1 for loss in mert + mhubert)  # 1 - cosine to random features
    for step, total in enumerate(shown["train/loss"]):
        expected = shown["train/denoising_loss"][step] + 0.5 * (mert[step] + mhubert[step]) / 2
        assert total == pytest.approx(expected, rel=1e-5)
    assert not {"train/mert_loss", "train/m-hubert_loss"} & curves(without).keys()
    assert not same(lora_of(with_features), lora_of(without))
    assert NOTICE not in capsys.readouterr().err


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8"])
def test_they_reach_every_block_up_to_their_depth_and_none_behind(shards, opened, base_dtype):
    module, data = opened(shards(*BOTH), base_dtype=base_dtype, gradient_checkpointing=True)
    samples = data.samples.load([0], {"song0_000", "song2_000"})
    parts = module.losses(data.maker.batch(list(samples.values()), epoch=0)).parts
    (parts["mert_loss"] + parts["m-hubert_loss"]).backward()
    gradients = {name: weight.grad for name, weight in module.trained.items() if weight.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    reached = {name.split(".")[2] for name, gradient in gradients.items() if "blocks." in name and gradient.any()}
    assert reached == {"0", "1", "2"}


def test_resumed_equals_uninterrupted(shards, short, monkeypatch, tmp_path):
    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.should_stop = batch_idx == 3  # the last batch of the second step; an epoch has three

    monkeypatch.setattr(train.data.loader, "MEMORY_SHARE", 0.0)
    config = short(shards(*BOTH), max_steps=3)
    stopped = fit(config, callbacks=[Stop()])
    assert stopped.step == 2
    resumed = fit(config, resume_from=stopped.folder / "checkpoints" / "last.ckpt")
    whole = fit(config.model_copy(update={"logger_dir": str(tmp_path / "whole")}))
    assert resumed.step == whole.step == 3
    assert same(lora_of(resumed), lora_of(whole))


@pytest.mark.parametrize("name", BOTH)
def test_one_network_is_enough(shards, short, curves, capsys, name):
    shown = curves(fit(short(shards(name), max_steps=1)))
    told, other = {"mert": ("mert", "m-hubert"), "mhubert": ("m-hubert", "mert")}[name]
    assert shown["train/loss"][0] == pytest.approx(shown["train/denoising_loss"][0] + shown[f"train/{told}_loss"][0])
    assert f"train/{other}_loss" not in shown
    assert NOTICE not in capsys.readouterr().err


def test_shards_without_features_train_on_after_one_notice(shards, short, capsys):
    folder = shards()
    assert fit(short(folder)).step == 2
    assert capsys.readouterr().err.count(NOTICE) == 1
    fit(short(folder, ssl_coeff=0.0))
    assert NOTICE not in capsys.readouterr().err


def test_a_mix_is_held_against_features_of_the_mix(shards, short, opened):
    folder = shards(*BOTH)
    for output_type, target in (("accompaniment", "inst"), ("mix", "mix")):
        _, data = opened(folder, accompaniment={"output_type": output_type}, crop_seconds=10.0)
        (sample,) = data.samples.load([0], {"song0_000"}).values()
        for (found,), name in zip(data.maker.cut([sample], epoch=0).features, BOTH, strict=True):
            np.testing.assert_array_equal(found.numpy(), sample.features[target, name])
    assert fit(short(shards(*BOTH, targets=("mix",)), accompaniment={"output_type": "mix"})).step == 2


def test_samples_without_features_add_nothing_to_those_with(opened, shards, make_sample):
    """The loss of a batch is the mean of its clips' losses, whichever of them carry features."""
    module, data = opened(shards(*BOTH))
    samples = [make_sample("a", 0, 24, features=BOTH), make_sample("b", 0, 24), make_sample("c", 0, 24, features=BOTH)]
    together = module.losses(data.maker.batch(samples, epoch=0))
    alone = [module.losses(data.maker.batch([sample], epoch=0)) for sample in samples]
    assert ["mert_loss" in losses.parts for losses in alone] == [True, False, True]
    torch.testing.assert_close(together.total, torch.stack([losses.total for losses in alone]).mean())


def test_a_batch_that_only_fills_up_teaches_nothing(opened, shards, make_sample):
    module, data = opened(shards(*BOTH))
    clips = data.maker.cut([make_sample("a", 0, 24, features=BOTH)], epoch=0, weight=0.0)
    module.losses(data.maker.with_noise(clips)).total.backward()
    assert not any(weight.grad.any() for weight in module.trained.values() if weight.grad is not None)


def test_features_are_held_for_training_only(opened, shards):
    folder = shards(*BOTH)
    _, data = opened(folder, val_fraction=0.4)
    assert [clip.features for clip in data.validation.clips] == [()] * 8
    _, data = opened(folder, ssl_coeff=0.0)
    (sample,) = data.samples.load([0], {"song0_000"}).values()
    assert sample.arrays().keys() == {"vocal", "inst", "activity", "text", "text_mask", "lyrics"}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("seconds", [2.5, 9.7, 33.3, 64.0])
def test_the_features_of_a_crop_are_those_of_its_time(short, make_sample, tmp_path, name, seconds):
    """They begin and end with the crop to within one latent frame and one of their own, wherever it is cut."""
    kind = SSL_KINDS[name]

    def times(chunks):
        starts = torch.arange(len(chunks))[:, None] * kind.chunk_seconds
        within = torch.arange((chunks.shape[-1] - 400) // FRAME_HOP + 1) * FRAME_HOP / kind.rate_hz
        return (starts + within)[:, :, None]

    wave = torch.zeros(2, round(seconds * LATENTS.sample_rate_hz))
    features = ssl_features(wave, LATENTS.sample_rate_hz, kind, times).numpy()
    frames = LATENTS.frames_of(wave.shape[-1])
    numbered = np.broadcast_to(np.arange(frames, dtype=np.float16), (8, 16, frames))
    sample = replace(make_sample("a", 0, frames), targets={"inst": numbered}, features={("inst", name): features})
    config = short(tmp_path)
    maker = ClipMaker(config, conditioning_of(config), STATISTICS, ACE_STEP_1)
    step = FRAME_HOP / kind.rate_hz
    tolerance = 1 / LATENTS.frames_per_second + step
    firsts = set()
    for epoch in range(40):
        clip = maker.cut([sample], epoch=epoch)
        first, last = clip.target[0, 0, 0, [0, -1]].tolist()
        ((features,),) = filter(None, clip.features)
        starts = np.asarray(features)[:, 0]
        assert starts[0] == pytest.approx(first / LATENTS.frames_per_second, abs=tolerance)
        assert starts[-1] + step == pytest.approx((last + 1) / LATENTS.frames_per_second, abs=tolerance)
        assert np.diff(starts).max() < 3 * step  # a chunk of MERT's ends a frame early
        firsts.add(first)
    assert len(firsts) > math.sqrt(min(40, frames - 21))

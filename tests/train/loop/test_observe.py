from collections import defaultdict

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.flow.control import ControlEncoder, ControlInjection
from models.loading.checkpoint import TINY
from train.loop.fit import fit
from train.loop.memory import estimated_bytes
from train.loop.module import AccompanimentModule
from train.loop.observe import vocal_path_norms
from train.loop.preparation import make_data, make_module, open_shards


def test_curves_are_means_over_the_steps_since_the_last_point(song_shards, tiny_config, monkeypatch, capsys):
    steps = []
    plain = AccompanimentModule.training_step

    def noted(module, batch, index):
        made = plain(module, batch, index)
        steps.append((made["loss"].item(), batch.timestep / 1000, made["of_clips"]))
        return made

    monkeypatch.setattr(AccompanimentModule, "training_step", noted)
    outcome = fit(tiny_config(song_shards, max_steps=10, val_fraction=0.0, structure_coeff=0.5, crop_seconds=1.0))
    curves = EventAccumulator(str(outcome.folder)).Reload()
    shown = {name: curves.Scalars(name)[0].value for name in curves.Tags()["scalars"]}
    assert shown["train/loss"] == pytest.approx(sum(loss for loss, _, _ in steps) / 20, rel=1e-5)
    assert shown["train/loss"] == pytest.approx(
        shown["train/denoising_loss"] + 0.5 * shown["train/structure_loss"], rel=1e-5
    )
    by_level = defaultdict(list)
    for _, sigmas, losses in steps:
        for sigma, loss in zip(sigmas.tolist(), losses.tolist(), strict=True):
            level = min(int(sigma * 5), 4)
            by_level[f"train/denoising_loss_sigma_{level / 5:g}_to_{(level + 1) / 5:g}"].append(loss)
    assert len(by_level) > 1
    for name, losses in by_level.items():
        assert shown[name] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert shown["train/samples_per_second"] > 0
    assert shown["train/grad_norm"] > 0
    assert shown["vocal_path/projection_norm"] > 0
    said = capsys.readouterr().err
    assert "; estimated peak memory 0." in said
    assert said.count("memory after 3 steps, of this process: ") == 1


@pytest.mark.parametrize(("injection", "gates"), [("zero", 0), ("cross_norm", 2)])
def test_the_vocals_path_is_silent_when_fresh(injection: ControlInjection, gates: int):
    control = ControlEncoder(
        frame_values=128, depth=1, dim=128, out_dim=32, blocks=4, injection_layers=(0, 2), control_injection=injection
    )
    shown = vocal_path_norms(control)
    assert len(shown) == 2 + gates
    assert [shown[f"norm_at_block_{block}"] == 0 for block in (0, 2)] == [not gates] * 2
    assert all(shown[name] == 0 for name in shown if name.startswith("gate_"))
    assert vocal_path_norms(None) == {}


@pytest.mark.parametrize(
    ("checkpointing", "base_dtype"),
    [
        (False, "float32"),
        (True, "bfloat16"),
        pytest.param(True, "float32", marks=pytest.mark.slow),
        pytest.param(False, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_memory_is_estimated_from_what_blocks_keep(make_shards, tiny_config, checkpointing, base_dtype):
    shards = make_shards({"song": [1000]})
    config = tiny_config(
        shards, crop_seconds=93.0, batch_size=1, gradient_checkpointing=checkpointing, base_dtype=base_dtype
    )
    data = make_data(config, open_shards(config, features=False))
    module = make_module(config, TINY, "b", data)
    (sample,) = data.samples.load([0], {"song_000"}).values()
    batch = data.maker.batch([sample], epoch=0)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = module.losses(batch)
    measured = sum(size for size, _ in kept.values())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.trained.values())
    estimated = estimated_bytes(module) - weights - 12 * trained
    assert losses.total.isfinite()
    if checkpointing:  # one block at a time keeps as much again, later
        assert 0.05 * estimated < measured < 0.5 * estimated
    else:
        assert 0.7 * estimated < measured < 1.35 * estimated  # beside so narrow a network the latents weigh much

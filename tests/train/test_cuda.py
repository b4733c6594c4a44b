"""A run on a CUDA device, and that no test trains there unasked. On the CPU the same test compares it with itself."""

import os

import pytest
import torch
from lightning.pytorch import Callback

from train.loop.checkpoint import find_last
from train.loop.fit import fit


def test_no_card_is_seen_unless_asked_for():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


class StoppedError(Exception):
    """A run that ends before its time."""


class Watch(Callback):
    """Notes where a run trains, and ends it before step `stop_at`."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at, self.devices = stop_at, set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.devices |= {weight.device.type for weight in pl_module.trained.values()} | {batch.noise.device.type}
        if trainer.global_step == self.stop_at:
            raise StoppedError


def test_a_run_and_one_that_went_on_end_alike(device, song_shards, tiny_config):
    settings = {"max_steps": 4, "checkpoint_every_n_steps": 2, "val_every_n_steps": 2, "accumulate_grad_batches": 1}
    whole, broken = (tiny_config(song_shards, exp_name=name, **settings) for name in ("whole", "broken"))
    watch = Watch()
    expected = fit(whole, callbacks=[watch])
    assert watch.devices == {device.type}
    with pytest.raises(StoppedError):
        fit(broken, callbacks=[Watch(stop_at=2)])
    made = fit(broken, resume_from=find_last(broken))
    assert made.step == expected.step == 4
    assert made.figures.keys() == expected.figures.keys()
    ends = [torch.load(find_last(config), weights_only=True)["state_dict"] for config in (whole, broken)]
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=1e-3, atol=1e-4)

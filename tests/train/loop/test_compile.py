"""Blocks that torch compiles: without a break, in few graphs, in a run and in every trial of a search."""

from functools import partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from models.loading.checkpoint import TINY
from train.config import TrainingConfig
from train.loop.preparation import adapters_on, make_data, make_module, open_base, open_shards

MOST_GRAPHS = 6


@pytest.fixture
def counter(monkeypatch):
    """Counts the graphs that torch.compile makes instead of compiling them."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    counter = CompileCounter()
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=counter))
    yield counter
    torch.compiler.reset()


def step(module, data) -> None:
    segment = data.split.training[0]
    samples = list(data.samples.load([segment.shard], {segment.key}).values())
    module.losses(data.maker.batch(samples, epoch=0)).total.backward()
    module.zero_grad()


def config_of(tiny_config, shards, **settings) -> TrainingConfig:
    lora = {"r": 4, "lora_alpha": 4, "target_modules": ("to_q", "to_k", "to_v", "to_out.0", "lyric_proj")}
    return tiny_config(shards, lora=lora, compile=True, gradient_checkpointing=True, **settings)


@pytest.mark.parametrize("base_dtype", ["float32", "int8"])
def test_blocks_compile_without_a_break(song_shards, tiny_config, counter, base_dtype):
    config = config_of(tiny_config, song_shards, base_dtype=base_dtype)
    data = make_data(config, open_shards(config, features=False))
    module = make_module(config, TINY, "f", data)
    step(module, data)
    assert 0 < counter.frame_count <= MOST_GRAPHS
    assert not torch._dynamo.utils.counters["graph_break"]
    made = counter.frame_count
    step(module, data)
    assert counter.frame_count == made


def test_every_trial_compiles_and_leaves_the_base_plain(song_shards, tiny_config, counter):
    config = config_of(tiny_config, song_shards)
    data, base = make_data(config, open_shards(config, features=False)), open_base(config, TINY)
    made = []
    for rank in (2, 3):
        trial = config.model_copy(update={"lora": config.lora.model_copy(update={"r": rank})})
        with adapters_on(base, trial, "f", data) as module:
            step(module, data)
        made.append(counter.frame_count)
        assert all(block._compiled_call_impl is None for block in base.transformer_blocks)
    assert 0 < made[0] < made[1] <= 2 * MOST_GRAPHS

"""Several devices, as far as CPUs can show it: processes that talk through gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from common.errors import UserError
from models.adapters.lora import attach_lora, trained_parameters
from models.flow.sampler import SamplerSettings, sample
from models.loading.checkpoint import TINY, open_transformer
from train.config import TrainingConfig
from train.devices.strategy import DividedBase, Hardware, divide, hardware, make_strategy
from train.export import made_up_answer
from train.loop.checkpoint import find_last

ROOT = Path(__file__).resolve().parents[3]


def test_several_ranks_are_ddp_unless_the_base_is_to_be_divided():
    config = TrainingConfig()
    assert make_strategy("auto", ranks=1, config=config) == "auto"
    assert isinstance(make_strategy("auto", ranks=2, config=config), DDPStrategy)
    assert isinstance(make_strategy("fsdp", ranks=2, config=config), DividedBase)


@pytest.mark.parametrize(
    ("ranks", "base_dtype", "message"),
    [
        (1, None, "--strategy fsdp divides the base among devices, and this is one. Raise --devices or --nodes."),
        (
            2,
            "int8",
            "base_dtype int8 cannot be divided by --strategy fsdp. Choose bfloat16, or --strategy ddp.",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(ranks, base_dtype, message):
    with pytest.raises(UserError) as caught:
        make_strategy("fsdp", ranks=ranks, config=TrainingConfig(base_dtype=base_dtype))
    assert str(caught.value) == message


def test_hardware_is_what_the_flags_say(monkeypatch):
    config = TrainingConfig()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert hardware("auto", devices=2, config=config) == Hardware("cpu", 2)
    monkeypatch.setattr(
        "train.devices.strategy.chosen_device", lambda name: torch.device("cuda:1" if ":" in name else "cuda:0")
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert hardware("cuda", devices=2, config=config) == Hardware("cuda", 2)
    assert hardware("cuda:1", devices=1, config=config) == Hardware("cuda", [1])
    monkeypatch.setattr("train.devices.strategy.chosen_device", lambda name: torch.device("mps:0"))
    assert hardware("mps", devices=1, config=config) == Hardware("mps", 1)


@pytest.mark.parametrize(
    ("device", "devices", "settings", "message"),
    [
        ("cuda", 8, {}, "--devices 8: this machine has 2 GPUs. Use at most so many, or --device cpu."),
        ("cuda:1", 2, {}, "--device cuda:1 is one device, and --devices asks for 2. Leave one of them out."),
        ("mps", 2, {}, "--devices 2: there is one mps. Leave --devices out."),
        (
            "mps",
            1,
            {"base_dtype": "int8"},
            "base_dtype int8 cannot run on mps. Set base_dtype to bfloat16, or use --device cpu.",
        ),
        (
            "mps",
            1,
            {"optimizer": "adamw8bit"},
            "optimizer adamw8bit cannot run on mps. Set optimizer to adamw, or use --device cpu.",
        ),
    ],
)
def test_hardware_that_is_not_there_is_one_line(monkeypatch, device, devices, settings, message):
    monkeypatch.setattr("train.devices.strategy.chosen_device", torch.device)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError) as caught:
        hardware(device, devices=devices, config=TrainingConfig(**settings))
    assert str(caught.value) == message


@pytest.fixture
def world(tmp_path):
    """A world of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def few_steps(transformer):
    """Latents that two guided steps make."""
    noise = torch.randn(1, 8, 16, 24, generator=torch.Generator().manual_seed(0))
    text, speaker = torch.ones(1, 3, transformer.genre_embedder.in_features), torch.zeros(1, 512)
    told, untold = (
        transformer.encode(states, torch.ones(1, 3), speaker, torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2))
        for states in (text, torch.zeros_like(text))
    )
    return sample(transformer, told, untold, noise, SamplerSettings(steps=2))


def test_the_frozen_base_is_divided_and_what_is_trained_stays_whole(world):
    transformer = open_transformer(TINY)
    attach_lora(transformer, rank=2, alpha=2, target_modules=("to_q", "lyric_proj"))
    trained, expected = trained_parameters(transformer), made_up_answer(transformer)
    sampled = few_steps(transformer)
    divide(transformer, trained.values(), world)
    for name, parameter in transformer.named_parameters():
        assert isinstance(parameter, DTensor) == (name not in trained)
        assert name not in trained or parameter is trained[name]
    assert torch.equal(made_up_answer(transformer), expected)
    assert torch.equal(few_steps(transformer), sampled)


def train_run(config, *arguments):
    file = Path(config.logger_dir).with_name(f"{config.exp_name}.json")
    file.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "train", "run", "--config", str(file), "--devices", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return torch.load(find_last(config), weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_divided_base_trains_as_ddp_does(song_shards, tiny_config):
    def config(strategy):
        return tiny_config(
            song_shards,
            "controlnet",
            exp_name=strategy,
            max_steps=2,
            gradient_checkpointing=True,
            ema_decay=0.5,
            lora={"r": 4, "lora_alpha": 4, "target_modules": ("to_q", "genre_embedder", "linear_q")},
        )

    whole = train_run(config("ddp"), "--strategy", "ddp")
    divided = train_run(config("fsdp"), "--strategy", "fsdp")
    assert whole.keys() == divided.keys()
    learned = [name for name in whole if ".lora_B." in name or ".out." in name]  # what starts at zero
    one, other = (torch.cat([held[name].flatten() for name in learned]) for held in (whole, divided))
    assert one.abs().max() > 1e-3
    assert (one - other).norm() < 0.02 * one.norm()  # sums in another order, of which Adam sees mostly the signs

"""Prep's networks compute in whole float32, whatever the card and whoever else runs in the process."""

from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from models.device import whole_float32
from models.loading.checkpoint import TINY
from prep.building.identity import build_fingerprint
from prep.building.vocal import encode_vocal


def precisions():
    cudnn: Any = torch.backends.cudnn
    return [place.fp32_precision for place in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]


@pytest.fixture
def rounding_card():
    """A process that would let a card round to TF32 wherever it can, as the trainer's does."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_every_network_of_prep_computes_in_whole_float32(tmp_path, song, build, config, ssl_networks, rounding_card):
    song(tmp_path / "raw", "full", parts=("song",))
    seen, libraries = [], set()

    def note(module, _):
        libraries.add(type(module).__module__.partition(".")[0])
        if isinstance(module, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
            seen.append(precisions())

    hook = register_module_forward_pre_hook(note)
    try:
        ssl = config.model_copy(update={"ssl": ("mert", "mhubert")})
        build(config=ssl, ssl_folder=ssl_networks)
        encode_vocal(
            tmp_path / "raw" / "full.wav", tmp_path / "vocal", config, vocal_lufs=-20.0, checkpoint="tiny",
            device="cpu", prompt=None, lyrics=None,
        )  # fmt: skip
    finally:
        hook.remove()
    assert {"diffusers", "demucs", "transformers"} <= libraries
    assert {tuple(each) for each in seen} == {("ieee",) * 3}
    assert precisions() == ["tf32"] * 3


def test_whole_float32_ends_with_its_block(rounding_card):
    @whole_float32()
    def broken():
        seen.append(precisions())
        raise KeyError

    seen = []
    with pytest.raises(KeyError):
        broken()
    assert seen == [["ieee"] * 3]
    assert precisions() == ["tf32"] * 3


def test_a_build_with_tf32_is_another_build(config):
    cpu, cuda = (build_fingerprint(config, TINY, None, kind) for kind in ("cpu", "cuda"))
    assert (cpu.settings["device"], cuda.settings["device"]) == ("cpu", "cuda without TF32")

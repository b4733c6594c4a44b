"""The script for a real card: rehearsed at toy sizes, and one line where there is no card."""

import json
import sys
from functools import partialmethod

import pytest
import torch
from torch import nn

from benchmarks.gpu import main


@pytest.fixture
def uncompiled(monkeypatch):
    """What torch would compile for minutes is only traced."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    yield
    torch.compiler.reset()


def test_without_a_card_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "out")])
    assert main() == 2
    assert capsys.readouterr().err == (
        "benchmarks.gpu: torch finds no CUDA device. Rehearse with --device cpu --tiny.\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_rehearsal_writes_the_whole_table(monkeypatch, uncompiled, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path), "--device", "cpu", "--tiny"])
    assert main() == 0
    made = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    whats = [row["what"] for row in made["rows"]]
    assert whats[0].startswith("gpu tests: ")
    assert "skipped" in whats[0]
    assert whats[1:] == [
        "encode, float32",
        "training step, bfloat16, 22 frames, rank 4",
        "training step, bfloat16, 22 frames, rank 4, compiled",
        "training step, int8, 22 frames, rank 4",
        "guided sampling step, bfloat16, 22 frames",
    ]
    assert all(row["value"] > 0 for row in made["rows"][1:])
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert made["card"] in page
    assert all(what in page for what in whats)

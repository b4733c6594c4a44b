"""docs/shards.md says all there is to say about the format, and its example runs."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from common.bases import BaseOrigin
from common.config import Config
from common.latents import LatentStatistics
from shards.fingerprint import Fingerprint
from shards.manifest import Manifest, SegmentEntry, ShardEntry, SongEntry, Totals, VocalMoments
from shards.rejection import Reason, Rejection
from shards.schema import ARRAYS, PartLevels, SegmentMeta, Source, StemNote

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "shards.md").read_text(encoding="utf-8")
OBJECTS: tuple[type[Config], ...] = (
    Manifest, BaseOrigin, ShardEntry, SegmentEntry, SongEntry, VocalMoments, Totals, Fingerprint, LatentStatistics,
    SegmentMeta, PartLevels, Source, StemNote, Rejection,
)  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
def test_every_key_is_on_the_page(kind):
    assert [name for name in kind.model_fields if f"`{name}`" not in PAGE] == []


def test_arrays_stand_there_with_dtype_and_shape():
    sizes = {"M": "1024", "Q": "768"}
    for name, (dtype, letters) in ARRAYS.items():
        shape = ", ".join(sizes.get(letter, letter) for letter in letters)
        row = next(line for line in PAGE.splitlines() if line.startswith("|") and f"`{name}.npy`" in line)
        assert f"{dtype} [{shape}]" in row


def test_the_reasons_are_those_there_are():
    table = PAGE.split("| reason | |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE) == list(get_args(Reason))


def test_the_example_runs(tmp_path, songs, write, monkeypatch, capsys):
    write(tmp_path / "shards", songs, shard_samples=4)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(example, "docs/shards.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "a_000 0.8 s: folk, guitar"
    assert len(printed) == sum(map(len, songs))
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["totals"]["segments"] == len(printed)

"""The adapters inside Backline: whole, small, for the tiny base as it is, and for no other."""

from pathlib import Path

import pytest

from models.adapters.adapter import open_adapter, read_card
from models.adapters.shipped import SHIPPED, adapter_folder, find_adapters
from models.loading.acestep1 import open_transformer
from models.loading.checkpoint import TINY, part_hash, spec_of

MOST_BYTES = 8 * 10**6
MODES = pytest.mark.parametrize("mode", ["controlnet", "image2image"])


def test_without_a_name_it_is_the_one_that_follows_best_and_that_is_said(capsys):
    (folder,) = find_adapters((), None)
    assert "the one inside Backline" in capsys.readouterr().err
    assert find_adapters((), "tiny") == (folder,) == (SHIPPED / "controlnet",)


@MODES
def test_each_opens_on_the_tiny_base_and_takes_a_lead_sheet(mode):
    base = part_hash(TINY, spec_of(TINY).parts.transformer)
    adapter = open_adapter(SHIPPED / mode, open_transformer(TINY), weight=1.0, base_fingerprint=base)
    assert adapter.card.conditioning.mode == mode
    assert adapter.card.conditioning.lead_sheet is not None


def test_a_bare_name_is_one_inside_backline_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = Path("image2image")
    assert find_adapters((given,), None) == (SHIPPED / "image2image",)
    assert adapter_folder(Path("absent")) == Path("absent")
    assert adapter_folder(Path("..") / given) == Path("..") / given
    given.mkdir()
    assert adapter_folder(given) == given


@MODES
def test_the_codec_and_texts_of_its_training_are_those_of_the_bundle(mode):
    networks = read_card(SHIPPED / mode).networks
    for part in spec_of(TINY).parts.encoders:
        assert networks[part] == part_hash(TINY, part)


def test_no_other_base_has_one():
    assert find_adapters((), "ACE-Step/ACE-Step-v1-3.5B") == ()


def test_they_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= MOST_BYTES

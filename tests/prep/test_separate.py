import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.checkpoint import TINY
from prep.config import SeparatorConfig
from prep.separate import find_separator, gate, open_separator

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny separator, for a test to change."""
    shutil.copytree(TINY / "demucs", tmp_path / "demucs")
    return tmp_path / "demucs"


def rewrite(folder, **metadata):
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    kwargs = {"sources": ["drums", "bass", "other", "vocals"]}
    save_file(
        weights, path, {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs), **metadata}
    )
    return path


def opened():
    files = find_separator("auto", TINY)
    assert files is not None
    return open_separator(files, SeparatorConfig(gate_db=None), CPU)


def test_the_mix_is_heard_at_one_level_whatever_its_own(music):
    """Mean and deviation are taken out before, and put back after: a quieter mix gives the same vocal, quieter."""
    separator, mix = opened(), music(1.0).mix
    loud, soft = separator.separate(mix).vocal, separator.separate(mix * np.float32(0.25)).vocal
    assert loud.shape == mix.shape
    np.testing.assert_allclose(soft, loud * 0.25, atol=1e-4)


def test_separating_twice_gives_equal_bits(music):
    mix = music(1.0).mix
    np.testing.assert_array_equal(opened().separate(mix).vocal, opened().separate(mix).vocal)


def test_silence_separates_into_finite_numbers():
    assert np.isfinite(opened().separate(np.zeros((2, 44_100), np.float32)).vocal).all()


def test_the_gate_takes_bleed_and_leaves_singing():
    rng = np.random.default_rng(0)
    singing = 0.2 * rng.normal(size=(2, 44_100)).astype(np.float32)
    bleed = 0.0002 * rng.normal(size=(2, 44_100)).astype(np.float32)  # 60 dB lower
    vocal = np.concatenate([singing, bleed], axis=1)
    mix = vocal + np.float32(0.1)
    gated = gate(vocal, mix, 40.0)
    np.testing.assert_array_equal(gated.vocal[:, :44_100], singing)
    assert not gated.vocal[:, 50_000:].any()
    assert gated.bleed_db == pytest.approx(20 * np.log10(0.0002 / np.sqrt(0.2**2 + 2 * 0.1**2)), abs=1.0)
    assert gate(singing, mix[:, :44_100], 40.0).bleed_db is None


def test_none_is_no_separator_and_a_folder_is_one(folder):
    assert find_separator("none", TINY) is None
    found = find_separator(str(folder), TINY)
    assert found is not None
    automatic = find_separator("auto", TINY)
    assert automatic is not None
    assert found.content_hash() == automatic.content_hash()
    rewrite(folder)
    assert found.content_hash() != automatic.content_hash()


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "demucs.htdemucs.open", "torch.load", "", "HTDemucs"]
)
def test_only_demucs_own_classes_are_opened(folder, name):
    path = rewrite(folder, klass=name)
    with pytest.raises(UserError) as raised:
        find_separator(str(folder), TINY)
    assert str(raised.value) == (
        f"{path}: asks for {name}, which is none of demucs.demucs.Demucs, demucs.hdemucs.HDemucs, "
        "demucs.htdemucs.HTDemucs."
    )


def test_a_class_inside_the_structure_is_not_followed(folder, tmp_path):
    rewrite(folder, structure=json.dumps({"_class": "os.system"}))
    with pytest.raises(
        UserError, match=r"a quantised Demucs model, which needs diffq\. Choose htdemucs or another plain"
    ):
        find_separator(str(folder), TINY)


def test_weights_that_do_not_fit_are_one_line(folder):
    path = rewrite(folder)
    files = find_separator(str(folder), TINY)
    assert files is not None
    with pytest.raises(UserError, match=rf"^{path}: its weights do not fit its own arguments \(.*\)\.$"):
        open_separator(files, SeparatorConfig(), CPU)


def test_pickles_are_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".th"))
    with pytest.raises(UserError) as raised:
        find_separator(str(folder), TINY)
    assert str(raised.value) == (
        f"{folder}: 1 yaml and 0 safetensors files in it; a Demucs model is one yaml and its safetensors. "
        "Its .th files are pickles, which run code when opened."
    )


@pytest.mark.parametrize(
    "text", ["models: [../../evil]", "models: []", "models: !!python/name:os.system", "- a", "a: [", "models: 3"]
)
def test_a_bag_names_files_beside_it_and_nothing_else(folder, text):
    (path,) = folder.glob("*.yaml")
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^{path}: "):
        find_separator(str(folder), TINY)


def test_a_name_that_is_none_is_refused_without_asking_anyone():
    with pytest.raises(UserError, match=r"^\.\./x y: no folder, and no name of a Demucs model such as htdemucs\.$"):
        find_separator("../x y", TINY)

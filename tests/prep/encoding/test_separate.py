import json
import shutil

import numpy as np
import pytest
import torch
from demucs.apply import apply_model
from demucs.hf import load_safetensors_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.loading.checkpoint import TINY
from models.separator import find_separator, open_separator
from prep.config import SeparatorConfig

CPU = torch.device("cpu")
OVERLAP = SeparatorConfig().overlap


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


@pytest.fixture
def separate(disk_wave):
    """separate(mix) gives the vocal of a wave [2, N] by the tiny network, ungated."""
    files = find_separator("auto", TINY)
    assert files is not None
    separator = open_separator(files, CPU, overlap=OVERLAP)
    return lambda mix: np.concatenate(list(separator.vocal(disk_wave(mix))), axis=1)


def test_the_mix_is_separated_at_one_level_whatever_its_own(music, separate):
    """Mean and deviation are taken out before, and put back after: a quieter mix gives the same vocal, quieter."""
    mix = music(1.0).mix
    loud, soft = separate(mix), separate(mix * np.float32(0.25))
    assert loud.shape == mix.shape
    np.testing.assert_allclose(soft, loud * 0.25, atol=1e-4)


def test_separating_twice_gives_equal_bits(music, separate):
    mix = music(1.0).mix
    np.testing.assert_array_equal(separate(mix), separate(mix))


@pytest.mark.parametrize("seconds", [0.5, 3.0, 8.0])
def test_windows_give_what_demucs_gives_for_the_whole_song(music, separate, seconds):
    files = find_separator("auto", TINY)
    assert files is not None
    (path,) = files.weights
    mix = torch.from_numpy(music(seconds).mix)
    mean, deviation = mix.mean(0).mean(), mix.mean(0).std()
    model = load_safetensors_model(path)
    stems = apply_model(model, ((mix - mean) / deviation)[None], shifts=0, overlap=SeparatorConfig().overlap)
    whole = stems[0, model.sources.index("vocals")] * deviation + mean
    np.testing.assert_allclose(separate(mix.numpy()), whole.numpy(), atol=1e-5)


@pytest.mark.parametrize("samples", [1, 100, 44_100])
def test_silence_separates_into_finite_numbers(separate, samples):
    assert np.isfinite(separate(np.zeros((2, samples), np.float32))).all()


def test_a_bag_gives_the_weighted_mean_of_its_networks(folder, music, separate, disk_wave):
    (path,), (bag,) = folder.glob("*.safetensors"), folder.glob("*.yaml")
    silent = {name: torch.zeros_like(weight) for name, weight in load_file(path).items()}
    with safe_open(path, framework="pt") as file:
        save_file(silent, folder / "silent.safetensors", file.metadata())
    bag.write_text(f"models: [{path.stem}, silent]\nweights: [[1, 3], [1, 1]]\n")
    files = find_separator(str(folder), TINY)
    assert files is not None
    mix = music(1.0).mix - music(1.0).mix.mean()
    found = np.concatenate(list(open_separator(files, CPU, overlap=OVERLAP).vocal(disk_wave(mix))), axis=1)
    np.testing.assert_allclose(found, separate(mix) * 0.75, atol=1e-5)


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
        open_separator(files, CPU, overlap=OVERLAP)


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

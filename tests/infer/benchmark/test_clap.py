"""CLAP embeddings of bands: those of transformers' own model, windows and refusals; the weights are random."""

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from common.audio.wave import resample
from common.errors import UserError
from infer.benchmark.clap import Clap
from infer.benchmark.measured import Heard
from infer.benchmark.sets import compare_sets
from infer.evaluate.measures.clip import Clip

CPU = torch.device("cpu")
AUDIO = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "hidden_size": 16}
TEXT = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    config = ClapConfig(
        text_config=TEXT | {"projection_dim": 8}, audio_config=AUDIO | {"projection_dim": 8}, projection_dim=8
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(checkpoint):
    return Clap(checkpoint, CPU)


@pytest.fixture(scope="module")
def clips():
    """Two vocals and two bands, of 2 s."""
    random = np.random.default_rng(1)
    return [Clip((0.1 * random.standard_normal((2, 88_200))).astype(np.float32)) for _ in range(4)]


def test_embeddings_are_those_of_the_whole_model_of_windows_that_begin_every_second(clap, checkpoint, clips):
    (clip, *_) = clips
    mono = resample(clip.wave.mean(axis=0, keepdims=True), 44_100, 48_000)[0]
    second = np.concatenate([mono[48_000:], np.zeros(9 * 48_000, dtype=np.float32)])
    inputs = ClapFeatureExtractor.from_pretrained(checkpoint)(second, sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        expected = ClapModel.from_pretrained(checkpoint).eval().get_audio_features(**inputs).pooler_output[0]
    found = clap.embed(clip)
    assert found.shape == (2, 8)
    np.testing.assert_allclose(found[1], expected.numpy(), atol=1e-5)


def test_true_pairs_adhere_and_shuffled_ones_do_not_though_as_bands_they_are_the_same(clap, clips):
    vocals, bands = clips[:2], clips[2:]
    pairs = list(zip(vocals, bands, strict=True))
    systems = {
        "true": [clap.measure(Heard(vocal, band, (band,))) for vocal, band in pairs],
        "shuffled": [clap.measure(Heard(vocal, band, (bands[1 - at],))) for at, (vocal, band) in enumerate(pairs)],
    }
    figures = compare_sets("clap", systems, scaled=False, fewest=2)
    found = {(figure.measure, figure.system): figure.value for figure in figures}
    for system, adherence in (("true", 1.0), ("shuffled", 0.0)):
        assert found["clap_fd", system] == pytest.approx(0.0, abs=1e-9)
        assert found["clap_apa", system] == pytest.approx(adherence)
        assert ("clap_fd_inf", system) in found


def test_a_folder_of_something_else_is_one_line(tmp_path, checkpoint):
    with pytest.raises(UserError, match=r"config.json is missing"):
        Clap(tmp_path, CPU)
    torch.manual_seed(0)
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other = ClapConfig(text_config=TEXT, audio_config=AUDIO | {"enable_fusion": True})
    (tmp_path / "config.json").write_text(other.to_json_string(), encoding="utf-8")
    with pytest.raises(UserError, match="a fusion checkpoint, which crops by chance"):
        Clap(tmp_path, CPU)
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged \(.*\)\."):
        Clap(tmp_path, CPU)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UserError, match="a bert; --clap takes a CLAP checkpoint"):
        Clap(tmp_path, CPU)

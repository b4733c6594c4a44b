"""The harmony network beside what must hold of any weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from common.music.vocal_features import VocalFeatures
from models.harmony.beats import BeatTrack
from models.harmony.half_beats import PARTS, WIDTH, half_beats
from models.harmony.network import WEIGHTS_FILE, HarmonyNetwork, HarmonyShape
from models.harmony.trained import TrainedHarmoniser, open_harmoniser

SHAPE = HarmonyShape(width=8, dilations=(1, 2))


@pytest.fixture
def network() -> HarmonyNetwork:
    torch.manual_seed(0)
    return HarmonyNetwork(SHAPE).eval()


@pytest.fixture
def features() -> VocalFeatures:
    """Notes of C major, one a half beat, at 120 bpm."""
    midi = np.repeat(np.array([60, 64, 67, 72, 65, 69, 67, 62, 59, 62, 67, 65, 64, 60, 60, 60], np.float32), 12)
    sure = np.ones(len(midi), np.float32)
    onsets = np.zeros((3, len(midi)), np.float32)
    onsets[:, ::25] = 1.0
    return VocalFeatures(midi, sure, sure, onsets, 0.0)


@pytest.fixture
def beats() -> BeatTrack:
    return BeatTrack(np.arange(8) * 0.48, np.arange(8) % 4, 1.0)


def test_half_beats_count_from_the_scale_that_is_sung(features, beats):
    found = half_beats(features, beats)
    assert found.signature == 0
    assert found.values.shape == (PARTS * len(beats), WIDTH)
    assert found.values[:4, :12].argmax(axis=1).tolist() == [0, 4, 7, 0]
    assert found.values[:, 14:].argmax(axis=1).tolist() == list(range(8)) * 2


@pytest.mark.parametrize("semitones", [1, 5, -3])
def test_a_transposed_vocal_has_the_same_half_beats(features, beats, semitones):
    low = half_beats(features, beats)
    high = half_beats(replace(features, midi=features.midi + np.float32(semitones)), beats)
    assert high.signature == (low.signature + semitones) % 12
    np.testing.assert_array_equal(high.values, low.values)


@pytest.mark.parametrize("semitones", [1, 5, -3])
def test_a_transposed_vocal_gives_a_transposed_sheet_with_any_weights(network, features, semitones):
    harmoniser = TrainedHarmoniser(network)
    higher = replace(features, midi=features.midi + np.float32(semitones))
    assert harmoniser.lead_sheet_of(higher) == harmoniser.lead_sheet_of(features).shifted(semitones)


def test_what_the_network_says_does_not_depend_on_the_clips_beside(network):
    values = torch.randn(2, 20, WIDTH)
    together = network(values, torch.tensor([20, 13]))
    alone = network(values[1:, :13], torch.tensor([13]))
    torch.testing.assert_close(together.chords[1, :13], alone.chords[0])
    torch.testing.assert_close(together.keys[1], alone.keys[0])


def write(folder: Path, network: HarmonyNetwork, config: str = '{"width": 8, "dilations": [1, 2]}') -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config, encoding="utf-8")
    save_file(network.state_dict(), folder / WEIGHTS_FILE)
    return folder


def test_a_folder_gives_the_same_harmoniser(network, features, tmp_path):
    opened = open_harmoniser(write(tmp_path / "harmoniser", network))
    assert opened.lead_sheet_of(features) == TrainedHarmoniser(network).lead_sheet_of(features)


def test_weights_of_another_size_are_the_users_error(network, tmp_path):
    with pytest.raises(UserError, match=r"weights do not fit config\.json"):
        open_harmoniser(write(tmp_path / "harmoniser", network, '{"width": 9, "dilations": [1, 2]}'))

"""The vocoder against upstream's numbers; weight norm folded at load."""

import pytest
import torch
from torch import Tensor

from common.bases import ACE_STEP_1
from common.errors import UserError
from models.acestep1.codec.mel import HOP_SAMPLES, SPECTRUM_BINS, magnitudes, mel_tables
from models.acestep1.codec.vocoder import (
    MEL_TABLES,
    GriffinLimConfig,
    Vocoder,
    VocoderConfig,
    fold,
    phased,
    spread,
    stored_shapes,
)
from models.acestep1.sizes import PUBLISHED
from models.loading.weights import network_config, shapes_of

LATENTS = ACE_STEP_1.latents


@pytest.fixture
def vocoder(golden) -> Vocoder:
    known = golden("vocoder")
    network = Vocoder(network_config(VocoderConfig, known.notes["config"], "golden"))
    network.load_state_dict(fold(known.weights))
    return network.eval().requires_grad_(False)


def test_wave_is_upstreams(golden, vocoder):
    known = golden("vocoder")
    torch.testing.assert_close(vocoder(known.inputs["mel"]), known.expected["wav"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["backbone", "head_conv_pre"])
def test_inner_results_are_upstreams(golden, vocoder, name):
    known = golden("vocoder")
    inner = vocoder.backbone(known.inputs["mel"])
    found = inner if name == "backbone" else vocoder.head.conv_pre(inner)
    expected = known.expected[name]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_folded_weights_are_upstreams(golden):
    known = golden("vocoder")
    folded = fold(known.weights)
    for name, key in (("head.conv_pre.weight", "conv_pre"), ("head.ups.0.weight", "ups_0")):
        torch.testing.assert_close(folded[name], known.expected[f"effective_weight_{key}"], rtol=0, atol=1e-6)


def test_stored_names_and_shapes_are_the_files(golden, vocoder):
    assert stored_shapes(vocoder) == {name: tuple(weight.shape) for name, weight in golden("vocoder").weights.items()}


def test_folding_gives_the_networks_own_weights(golden, vocoder):
    folded = fold(golden("vocoder").weights)
    assert {name: tuple(weight.shape) for name, weight in folded.items()} == shapes_of(vocoder)
    assert not MEL_TABLES.keys() & folded.keys()


def test_folded_weight_has_the_norm_that_g_says():
    stored = {
        "head.ups.0.weight_v": torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(1)),
        "head.ups.0.weight_g": torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None],
    }
    torch.testing.assert_close(fold(stored)["head.ups.0.weight"].norm(dim=(1, 2)), torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("frames", [1, 5])
def test_every_mel_frame_becomes_512_samples_within_full_scale(vocoder, frames):
    wave: Tensor = vocoder(torch.full((2, 128, frames), -5.0))
    assert wave.shape == (2, 1, 512 * frames)
    assert wave.abs().max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsample_rates": [4, 4, 2, 2, 2]}, "v.json: upsample_rates multiply to 128; it must be 512"),
        ({"num_mels": 8}, "v.json: the last of dims is 512 and num_mels 8; they must be equal"),
        ({"use_template": True}, "v.json: use_template: Input should be False, got True"),
        ({"hop_length": 256}, "v.json: hop_length: Input should be 512, got 256"),
    ],
)
def test_a_vocoder_of_another_kind_is_refused(change, message):
    with pytest.raises(UserError) as error:
        network_config(VocoderConfig, PUBLISHED.vocoder | change, "v.json")
    assert str(error.value) == message


def tones() -> Tensor:
    """A chord that swells, and noise. [2, 512·60]"""
    time = torch.arange(60 * HOP_SAMPLES) / LATENTS.sample_rate_hz
    chord = sum(torch.sin(2 * torch.pi * hertz * time) for hertz in (220.0, 277.2, 329.6)) * torch.sin(8 * time).abs()
    return torch.stack([0.1 * chord, 0.1 * torch.randn(len(time), generator=torch.Generator().manual_seed(2))])


def test_phases_are_found_that_give_the_magnitudes_back():
    wave, window = tones(), mel_tables(torch.device("cpu")).window
    true = magnitudes(wave, window)
    made = phased(true, rounds=32, momentum=0.99)
    assert made.shape == wave.shape
    found = magnitudes(made, window)
    chord, noise = ((found - true).square().sum((1, 2)) / true.square().sum((1, 2))).sqrt()
    assert chord < 0.2
    assert noise < 0.4
    shares = made.square().mean(1) / wave.square().mean(1)
    torch.testing.assert_close(shares, torch.ones(2), rtol=0, atol=0.1)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_found_phases_follow_the_level_and_fill_every_frame(frames):
    spectrum = torch.rand(2, SPECTRUM_BINS, frames, generator=torch.Generator().manual_seed(3))
    wave = phased(spectrum, rounds=4, momentum=0.99)
    assert wave.shape == (2, frames * HOP_SAMPLES)
    torch.testing.assert_close(phased(2 * spectrum, rounds=4, momentum=0.99), 2 * wave)


def test_a_flat_spectrum_is_spread_from_its_mel():
    flat = torch.full((1, SPECTRUM_BINS, 3), 2.0)
    mel = (mel_tables(torch.device("cpu")).filters.T @ flat).log()
    torch.testing.assert_close(spread(mel), flat.log())
    torch.testing.assert_close(spread(mel + 1.5), flat.log() + 1.5)


def test_the_head_that_finds_phases_bounds_its_wave():
    config = GriffinLimConfig(depths=(1,), dims=(8,), head="griffin_lim", rounds=2)
    vocoder = Vocoder(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    weights = {name: 9 * torch.randn(w.shape, generator=generator) for name, w in vocoder.state_dict().items()}
    vocoder.load_state_dict(weights)
    wave = vocoder(torch.zeros(1, 128, 6))
    assert wave.shape == (1, 1, 6 * HOP_SAMPLES)
    assert wave.abs().max() == 1.0
    assert stored_shapes(vocoder).keys() == vocoder.state_dict().keys() | MEL_TABLES.keys()

import json
import math

import pytest
import torch
from transformers import HubertConfig, HubertModel

from common.errors import UserError
from prep.ssl import SSL_KINDS, last_hidden_state, open_ssl_network, ssl_features


def signal(samples, *, pitch, amplitude):
    """The golden's signal: [2, samples] at 48 kHz."""
    t = torch.arange(samples, dtype=torch.float64) / 48000
    channels = []
    for c in (0, 1):
        tone = 0.4 * torch.sin(2 * math.pi * 110 * (c + 1) * pitch * t)
        swell = 0.6 + 0.4 * torch.sin(2 * math.pi * 0.37 * t)
        high = 0.2 * torch.sin(2 * math.pi * (1234.5 + 77 * c) * pitch * t + 0.5)
        channels.append(amplitude * (tone * swell + high + 0.01 * (c + 1)))
    return torch.stack(channels).float()


def frame_statistics(chunks):
    """The golden's stand-in for the networks: mean, deviation and first sample of frames of 400 every 320."""
    frames = chunks.unfold(-1, 400, 320)
    return torch.stack([frames.mean(-1), frames.std(-1), frames[..., 0]], dim=-1)


@pytest.mark.parametrize("name", ["mert", "mhubert"])
@pytest.mark.parametrize(("item", "pitch", "amplitude"), [(0, 1.0, 1.0), (1, 1.3, 0.5)])
def test_plumbing_matches_upstream(golden, name, item, pitch, amplitude):
    numbers = golden("ssl_features")
    wave = signal(numbers.notes["wav_lengths"][item], pitch=pitch, amplitude=amplitude)
    torch.testing.assert_close(wave[:, :2000], numbers.inputs[f"wav_item{item}_first_2000"], atol=1e-6, rtol=0)
    expected = numbers.expected[f"{name}_{item}"]
    found = ssl_features(wave, 48000, SSL_KINDS[name], frame_statistics)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def small_network(folder, **options):
    config = HubertConfig(
        hidden_size=768,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=16,
    )
    HubertModel(config).eval().save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    return folder


def test_a_local_folder_gives_features_of_the_networks_width(tmp_path):
    network = open_ssl_network("mhubert", small_network(tmp_path))
    wave = signal(44_100, pitch=1.0, amplitude=1.0)
    found = ssl_features(wave, 44_100, SSL_KINDS["mhubert"], lambda chunks: last_hidden_state(network, chunks))
    assert found.shape == (50, 768)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mert", {}, "{folder}: mert must be 1024 wide, this one is 768; use m-a-p/MERT-v1-330M."),
        (
            "mhubert",
            {"feature_extractor_cqt": True},
            "{folder}/config.json: feature_extractor_cqt is on, which only the model's own code can do; "
            "use the published model.",
        ),
        (
            "mhubert",
            {"num_hidden_layers": 2},
            "{folder}/model.safetensors: 16 weights missing or of another shape: "
            "encoder.layers.1.attention.k_proj.bias, ...",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(tmp_path, name, options, message):
    with pytest.raises(UserError) as caught:
        open_ssl_network(name, small_network(tmp_path, **options))
    assert str(caught.value) == message.format(folder=tmp_path)


def test_an_empty_folder_says_what_to_download(tmp_path):
    with pytest.raises(UserError) as caught:
        open_ssl_network("mert", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: config.json is missing, so mert cannot be opened; download m-a-p/MERT-v1-330M; "
        "pickled weights (.bin) must be saved as safetensors first."
    )

import math

import numpy as np
import pytest
import torch

from common.audio.wave import read_audio
from common.bases import ACE_STEP_1
from common.errors import UserError
from prep.building.workers import torch_threads
from prep.encoding.ssl import SSL_KINDS, last_hidden_state, open_ssl_network, ssl_features
from shards.reader import read_manifest, read_song
from shards.verify import verify

LATENTS = ACE_STEP_1.latents


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


def test_a_local_folder_gives_features_of_the_networks_width(tmp_path, small_ssl_network):
    network = open_ssl_network("mhubert", small_ssl_network(tmp_path))
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
            {"attn_implementation": "someone/attention"},
            "{folder}/config.json: attn_implementation names code on Hugging Face, which is never run. Take it out.",
        ),
        (
            "mhubert",
            {"num_hidden_layers": 2},
            "{folder}/model.safetensors: 16 weights missing or of another shape: "
            "encoder.layers.1.attention.k_proj.bias, ...",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(tmp_path, small_ssl_network, name, options, message):
    with pytest.raises(UserError) as caught:
        open_ssl_network(name, small_ssl_network(tmp_path, **options))
    assert str(caught.value) == message.format(folder=tmp_path)


def test_an_empty_folder_says_what_to_download(tmp_path):
    with pytest.raises(UserError) as caught:
        open_ssl_network("mert", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: config.json is missing, so mert cannot be opened; download m-a-p/MERT-v1-330M; "
        "pickled weights (.bin) must be saved as safetensors first."
    )


def test_a_build_keeps_features_of_each_target(tmp_path, song, build, config, ssl_networks):
    song(tmp_path / "raw", "a", parts=("vocal", "inst"))
    with_ssl = config.model_copy(update={"ssl": ("mert", "mhubert")})
    build(config=with_ssl, ssl_folder=ssl_networks)
    (sample,) = read_song(tmp_path / "shards", "a")
    found = sample.arrays()
    seconds = sample.meta.seconds
    assert [name for name in found if "mert" in name or "hubert" in name] == [
        "inst_mert", "inst_mhubert", "mix_mert", "mix_mhubert"
    ]  # fmt: skip
    assert found["inst_mert"].shape == (pytest.approx(75 * seconds, abs=1), 1024)
    assert found["mix_mhubert"].shape == (pytest.approx(50 * seconds, abs=1), 768)
    inst = read_audio(tmp_path / "raw" / "a_inst.wav").samples
    start = round(sample.meta.start_seconds * LATENTS.sample_rate_hz)
    levelled = inst[:, start : start + sample.meta.samples] * np.float32(10 ** (sample.meta.gain_db / 20))
    network = open_ssl_network("mert", ssl_networks / "mert")
    with torch_threads(1):
        expected = ssl_features(
            torch.from_numpy(levelled),
            LATENTS.sample_rate_hz,
            SSL_KINDS["mert"],
            lambda chunks: last_hidden_state(network, chunks),
        )
    np.testing.assert_array_equal(found["inst_mert"], expected.half().numpy())
    assert {"mert", "mhubert"} <= read_manifest(tmp_path / "shards").fingerprint.networks.keys()
    assert verify(tmp_path / "shards") == []


def test_one_target_and_one_network(tmp_path, song, build, config, ssl_networks):
    song(tmp_path / "raw", "a", parts=("vocal", "inst"))
    build(config=config.model_copy(update={"ssl": ("mhubert",), "targets": ("inst",)}), ssl_folder=ssl_networks)
    (sample,) = read_song(tmp_path / "shards", "a")
    assert sample.arrays().keys() == {"vocal", "inst", "activity", "text", "text_mask", "lyrics", "inst_mhubert"}


def test_other_features_need_a_rebuild(tmp_path, song, build, config, small_ssl_network, ssl_networks):
    song(tmp_path / "raw", "a", parts=("vocal", "inst"))
    with_ssl = config.model_copy(update={"ssl": ("mhubert",)})
    build(config=with_ssl, ssl_folder=ssl_networks)
    with pytest.raises(UserError, match=r"built otherwise: ssl was \['mhubert'\], is \[\]\. Use --rebuild"):
        build()
    torch.manual_seed(1)
    small_ssl_network(ssl_networks / "mhubert")
    with pytest.raises(UserError, match=r"built otherwise: network mhubert was [0-9a-f]{8}, is [0-9a-f]{8}\."):
        build(config=with_ssl, ssl_folder=ssl_networks)


def test_features_without_their_network_say_what_to_download(tmp_path, song, build, config):
    song(tmp_path / "raw", "a")
    with pytest.raises(UserError, match=r"mert: config\.json is missing, so mert cannot be opened; download m-a-p/"):
        build(config=config.model_copy(update={"ssl": ("mert",)}), ssl_folder=tmp_path)
    assert not (tmp_path / "shards").exists()

"""Our codec computes what diffusers' VAE computes with the same weights, whole or in pieces."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.acestep15.codec import LAYOUT, context_of
from models.loading.checkpoint import open_codec, open_decoder

FRAMES = 18
SHORT = 7
"""Samples by which the last frame is not full."""


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory):
    made = tmp_path_factory.mktemp("with_vae")
    vae.save_pretrained(made / "vae")
    (made / "condition_encoder").mkdir()
    return made


@pytest.fixture(scope="module")
def wave():
    return torch.randn(2, FRAMES * 1920 - SHORT, generator=torch.Generator().manual_seed(8)) * 0.3


@pytest.fixture(scope="module")
def codec(folder):
    return open_codec(folder, encoder=True, decoder=True)


@pytest.fixture(scope="module")
def latents(codec, wave):
    with torch.no_grad():
        return codec.encode(wave)


@torch.no_grad()
def test_latents_are_the_mode_of_diffusers_vae(latents, vae, wave):
    expected = vae.encode(torch.nn.functional.pad(wave, (0, SHORT))[None]).latent_dist.mode()[0]
    assert latents.shape == (64, 1, FRAMES)
    torch.testing.assert_close(latents.squeeze(1), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sound_is_that_of_diffusers_vae(folder, latents, vae, wave):
    expected = vae.decode(latents.squeeze(1)[None]).sample[0, :, : wave.shape[1]]
    decoder = open_decoder(folder, torch.device("cpu"))
    found = torch.from_numpy(decoder.wave(latents, wave.shape[1]))
    assert found.shape == wave.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (LAYOUT.sample_rate_hz, LAYOUT.frames_per_second, expected.std() > 0.01) == (48_000, 25, True)


@torch.no_grad()
def test_pieces_give_what_the_whole_clip_gives_and_less_context_does_not(codec, latents, wave, monkeypatch):
    sound = codec.decode(latents)
    assert [context_of(codec.encoder), context_of(codec.decoder)] == [8, 10]

    def difference(found: torch.Tensor, whole: torch.Tensor) -> float:
        return ((found - whole).abs().max() / whole.abs().max()).item()

    def decoded() -> torch.Tensor:
        return torch.cat(list(codec.decode_in_pieces(latents, longest=4)), dim=1)

    assert difference(codec.encode(wave, longest=FRAMES // 2), latents) < 1e-5
    assert difference(decoded(), sound) < 1e-5
    monkeypatch.setattr("models.acestep15.codec.context_of", lambda half: 3)
    assert difference(decoded(), sound) > 1e-4


@torch.no_grad()
def test_a_rendering_is_mono_with_low_notes_below(folder):
    wave, picture = open_decoder(folder, torch.device("cpu")).rendering(torch.randn(64, 1, 12) * 0.3)
    assert wave.shape == (12 * 1920,)
    assert picture.shape[0] == 128
    assert 0 <= picture.min() < picture.max() <= 1


def test_each_half_opens_without_the_other(folder, tmp_path, codec, wave):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for half in ("encoder", "decoder"):
        other = tmp_path / half
        (other / "condition_encoder").mkdir(parents=True)
        (other / "vae").mkdir()
        shutil.copy(folder / "vae" / "config.json", other / "vae")
        held = {name: weight for name, weight in weights.items() if name.startswith(half)}
        save_file(held, other / "vae" / path.name)
        opened = open_codec(other, encoder=half == "encoder", decoder=half == "decoder")
        assert not any(parameter.requires_grad for parameter in opened.parameters())
        ours = getattr(codec, half).state_dict()
        theirs = getattr(opened, half).state_dict()
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
        with pytest.raises(UserError, match=r"missing; the first is"):
            open_codec(other, encoder=True, decoder=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"downsampling_ratios": [2, 4, 4, 8, 8]}, "multiply to 2048"),
        ({"sampling_rate": 44_100}, "sampling_rate"),
        ({"encoder_hidden_size": 64}, "encoder_hidden_size is 64"),
        ({"channel_multiples": [1, 1]}, "of different lengths"),
    ],
)
def test_a_vae_of_other_latents_is_refused_in_one_line(folder, tmp_path, changes, complaint):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=complaint) as raised:
        open_codec(copy, encoder=True, decoder=True)
    assert "\n" not in str(raised.value)


def test_the_vae_lies_beside_a_variant_that_is_named_itself(folder, tmp_path, codec):
    variant = tmp_path / "acestep-v15-any"
    variant.mkdir()
    (variant / "silence_latent.pt").touch()
    shutil.copytree(folder / "vae", tmp_path / "vae")
    opened = open_codec(variant, encoder=True, decoder=False)
    ours = codec.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in opened.state_dict().items())

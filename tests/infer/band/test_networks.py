import re
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from infer.band.session import Session
from infer.request.request import GenerationRequest, Runtime, resolve_settings, select_adapters
from infer.request.text_inputs import (
    TextInputs,
    cached_lyrics,
    cached_prompt,
    encode_conditions,
    encode_null_conditions,
)
from infer.request.vocal import vocal_from_shards
from models.acestep1.codec.mel import HOP_SAMPLES, log_mel
from models.adapters.conditioning import Conditioning, ControlShape
from models.adapters.lora import apply_plainly
from models.adapters.style import find_style
from models.flow.sampler import SamplerSettings, sample
from models.flow.windows import plan_windows
from models.loading.acestep1 import open_decoder
from models.loading.checkpoint import TINY, open_transformer, part_hash
from shards.reader import read_song

RUNTIME = Runtime(TINY, torch.device("cpu"))
SESSION = Session()
"""Its networks stay open from test to test."""
CONTROL = Conditioning(
    mode="controlnet",
    a_max=0.0,
    source_projection=False,
    control=ControlShape(depth=2, dim=128, injection_layers=(0, 2)),
)


@pytest.fixture
def inputs(shards):
    segments = read_song(shards, "ballad")
    words = TextInputs(cached_prompt(segments[0]), cached_lyrics(segments[0], "en"))
    return vocal_from_shards(shards, "ballad", segments, 44_100), words


def settled(*folders, **flags):
    request = GenerationRequest(adapters=folders, checkpoint_dir="tiny", **flags)
    return resolve_settings(request, select_adapters(request))


def drawn(inputs, folder, *seeds, **flags):
    return drawn_together(inputs, [folder], *seeds, **flags)


def drawn_together(inputs, folders, *seeds, **flags):
    return draw(*inputs, settled(*folders, **flags), seeds, adapters=folders)


def draw(vocal, text, settings, seeds, *, adapters, style=None):
    sampler = SESSION.sampler(RUNTIME, adapters, settings.lora_weights, style=style)
    with SESSION.counting(len(seeds) * settings.sampler.steps, "sampling", "steps") as step:
        return sampler.draw(vocal, text, settings, seeds, step)


bare_transformer = cache(partial(open_transformer, TINY))


def text2music(inputs, seed, sampler, transformer=None):
    """What the base, or another `transformer`, makes of the words alone."""
    vocal, words = inputs
    transformer, generator = transformer or bare_transformer(), torch.Generator().manual_seed(seed)
    noise = torch.randn((1, *vocal.latents.shape), generator=generator)
    conditional, unconditional = encode_conditions(transformer, words), encode_null_conditions(transformer, words)
    return sample(transformer, conditional, unconditional, noise, sampler, generators=[generator])[0]


@pytest.mark.parametrize("scheduler", ["euler", "heun", "pingpong"])
@pytest.mark.parametrize("conditioning", [Conditioning(), CONTROL], ids=["image2image", "controlnet"])
def test_without_weight_and_strength_it_is_text2music_bit_for_bit(inputs, make_adapter, conditioning, scheduler):
    sampler = SamplerSettings(steps=2, guidance_scale=7.0, scheduler=scheduler)
    folder = make_adapter(conditioning, sampler=sampler)
    (ours,) = drawn(inputs, folder, 3, lora_weights=(0.0,), ref_strength=0)
    assert torch.equal(ours, text2music(inputs, 3, sampler))
    assert not torch.equal(drawn(inputs, folder, 3, lora_weights=(0.0,))[0], ours)
    assert not torch.equal(drawn(inputs, folder, 3, ref_strength=0)[0], ours)


@pytest.mark.parametrize("conditioning", [Conditioning(), CONTROL], ids=["image2image", "controlnet"])
def test_that_holds_for_blends_in_windows_and_under_guidance_over_the_vocal(
    inputs, make_adapter, conditioning, monkeypatch
):
    sampler = SamplerSettings(steps=2, guidance_scale=7.0, guidance_interval=1.0)
    folder = make_adapter(conditioning, sampler=sampler)
    monkeypatch.setattr(
        "models.flow.sampler.plan_windows", lambda frames, longest: plan_windows(frames, longest=7, overlap=2)
    )
    flags = {"lora_weights": (0.0, 0.0), "vocal_guidance_scale": 3.0}
    (ours,) = drawn_together(inputs, [folder, folder], 3, ref_strength=0, **flags)
    assert torch.equal(ours, text2music(inputs, 3, sampler))
    assert not torch.equal(drawn_together(inputs, [folder, folder], 3, **flags)[0], ours)


@pytest.mark.parametrize("guidance", ["cfg", "apg"])
def test_a_strength_that_no_training_met_is_a_guidance_over_the_vocal(inputs, make_adapter, guidance):
    sampler = SamplerSettings(steps=2, guidance=guidance, guidance_scale=3.0)
    folder = make_adapter(CONTROL, sampler=sampler, reference_strength=1.0, strength_range=(1.0, 1.0))
    bands = {r: drawn(inputs, folder, 3, ref_strength=r)[0] for r in (0.0, 0.01, 0.5, 1.0)}
    away = {r: (band - bands[0.0]).norm().item() for r, band in bands.items()}
    assert 0 < away[0.01] < 0.05 * away[1.0]
    assert away[0.01] < away[0.5] < away[1.0]
    named = {"vocal_guidance_scale": "0.5", "vocal_guidance": "cfg", "vocal_guidance_interval": "[0,1]"}
    settings = tuple(f"sampler.{name}={value}" for name, value in named.items())
    assert torch.equal(drawn(inputs, folder, 3, ref_strength=1.0, settings=settings)[0], bands[0.5])
    (met,) = drawn(inputs, make_adapter(CONTROL, sampler=sampler, strength_range=(0.3, 1.0)), 3, ref_strength=0.5)
    assert not torch.equal(met, bands[0.5]), "an adapter that met it gets it in its encoder"


def test_a_style_beside_an_adapter_changes_the_band_by_its_weight_alone(inputs, adapter, style):
    """Its update is that of the base with the same LoRA in its weights; at weight 0 there is none, bit for bit."""

    def made(weight):
        styled = find_style(style, weight)
        return draw(*inputs, settled(adapter), [3], adapters=[adapter], style=styled)[0]

    (without,) = drawn(inputs, adapter, 3)
    assert torch.equal(made(0.0), without)
    assert (made(1.0) - without).abs().max() > 1e-2
    assert (made(2.0) - without).abs().max() > (made(0.5) - without).abs().max()


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_style_alone_is_text2music_of_the_base_with_that_lora(inputs, make_adapter, style, weight):
    sampler = SamplerSettings(steps=2, guidance_scale=7.0)
    folder = make_adapter(sampler=sampler)
    transformer = open_transformer(TINY)
    names = {name: name.removeprefix("diffusion_model.") for name in load_file(style)}
    halves = {names[name]: tensor * (weight if "lora_B" in name else 1) for name, tensor in load_file(style).items()}
    apply_plainly(transformer, halves)
    settings = settled(folder, lora_weights=(0.0,), ref_strength=0)
    (ours,) = draw(*inputs, settings, [3], adapters=[folder], style=find_style(style, weight))
    torch.testing.assert_close(ours, text2music(inputs, 3, sampler, transformer), atol=1e-3, rtol=1e-3)
    assert (ours - text2music(inputs, 3, sampler)).abs().max() > 1e-2


def test_a_sample_depends_on_its_seed_alone(inputs, adapter):
    both = drawn(inputs, adapter, 5, 6)
    (second,) = drawn(inputs, adapter, 6)
    assert torch.equal(both[1], second)
    assert not torch.equal(both[0], second)


@pytest.mark.parametrize("conditioning", [Conditioning(), CONTROL], ids=["image2image", "controlnet"])
def test_the_vocal_changes_the_band(inputs, make_adapter, conditioning):
    folder = make_adapter(conditioning)
    vocal, words = inputs
    reversed_vocal = type(vocal)(**vars(vocal) | {"latents": vocal.latents.flip(-1)})
    (ours,) = drawn(inputs, folder, 1)
    (other,) = drawn((reversed_vocal, words), folder, 1)
    assert ours.shape == vocal.latents.shape
    assert (ours - other).abs().max() > 1e-3


def test_steps_and_windows_are_counted(inputs, adapter, capsys, monkeypatch):
    drawn(inputs, adapter, 1, 2)
    assert "sampling: 8/8 steps" in capsys.readouterr().err
    monkeypatch.setattr(
        "models.flow.sampler.plan_windows", lambda frames, longest: plan_windows(frames, longest=7, overlap=2)
    )
    monkeypatch.setattr("common.progress.PLAIN_LINE_SECONDS", 0.0)
    drawn(inputs, adapter, 1)
    lines = capsys.readouterr().err.splitlines()
    shown = [re.sub(r",.*left", "", line) for line in lines if "window" in line]
    assert shown == [f"sampling: {step}/4 steps (window {window} of 2)" for step in range(4) for window in (1, 2)]


def test_an_adapter_for_another_base_is_one_line(inputs, make_adapter):
    folder = make_adapter(base_fingerprint="0" * 64)
    this = part_hash(TINY, "ace_step_transformer")[:8]
    message = (
        f"{folder}: made for the base 00000000, this one is {this}. Give the --checkpoint-dir that it was trained with."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        drawn(inputs, folder, 0)


def test_a_decoded_wave_has_the_length_asked_for(inputs):
    vocal, _ = inputs
    decoder = open_decoder(RUNTIME.base, RUNTIME.device)
    assert decoder.codec.encoder is None
    wave = decoder.wave(vocal.latents, vocal.samples)
    assert wave.shape == (2, vocal.samples)
    assert wave.dtype == "float32"


def test_long_latents_are_decoded_in_windows(inputs, monkeypatch):
    vocal, _ = inputs
    decoder = open_decoder(RUNTIME.base, RUNTIME.device)
    whole = decoder.wave(vocal.latents, vocal.samples)
    monkeypatch.setattr("models.acestep1.codec.decoder.WINDOW_FRAMES", 9)
    windowed = decoder.wave(vocal.latents, vocal.samples)
    assert windowed.shape == whole.shape
    mels = [log_mel(torch.from_numpy(wave[:, : 58 * HOP_SAMPLES])) for wave in (windowed, whole)]
    assert (mels[0] - mels[1]).abs().mean() < 0.05

"""The networks and their training step on a CUDA device that is not there; and that faults planted there are found."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models.acestep1.transformer.block
import models.acestep1.transformer.transformer
import models.flow.sampler
from benchmarks.counting import Counting, GpuLimits
from benchmarks.fake_cuda import CUDA, Strict, backward, fake_cuda
from benchmarks.fake_gpu import (
    LYRIC_TOKENS,
    STATISTICS,
    TEXT_TOKENS,
    TOKENS,
    main,
    make_batch,
    make_module,
    make_transformer,
    training_steps,
)
from benchmarks.full_size import default_dtype, random_clip
from common.bases import ACE_STEP_1
from common.config import load_config
from models.acestep1.codec.codec import Codec, CodecConfig, decode_audio, decode_mel_in_windows, vocode_in_blocks
from models.acestep1.codec.vocoder import Vocoder, VocoderConfig
from models.acestep1.sizes import PUBLISHED
from models.adapters.lora import attach_lora, trained_parameters
from models.flow.conditioning import SourceProjection
from models.flow.sampler import SamplerSettings, draw_noise, sample
from models.loading.checkpoint import TINY, open_transformer
from models.loading.weights import network_config
from prep.config import PrepConfig
from train.config import TrainingConfig
from train.loop.losses import denoising_loss
from train.loop.memory import estimated_bytes
from train.loop.module import conditioning_of, encode, estimate
from train.loop.optim import make_optimizer

LATENTS = ACE_STEP_1.latents

BLOCKS = 2
SECONDS = 10
PROJECTED = 10
"""Blocks of which one is what the published SSL losses look at."""


@pytest.fixture
def device():
    with fake_cuda():
        yield CUDA


def config_of(mode: str, *settings: str) -> TrainingConfig:
    return load_config(TrainingConfig, f"{mode}_base", [f"crop_seconds={SECONDS}", "lora.r=16", *settings])


def a_step(config: TrainingConfig, *, blocks: int, features: bool = False) -> None:
    """Forward, backward and optimiser; every gradient is float32 where its weight is."""
    with Strict(TOKENS):
        module = make_module(config, blocks)
        batch = make_batch(config, features=features)
        losses = module.losses(batch)
        assert losses.total.device == CUDA
        assert losses.total.dtype == torch.float32
        assert bool(losses.parts.keys() >= {"mert_loss", "m-hubert_loss"}) == features
        root = losses.total.grad_fn
        del losses
        backward(root)
        assert {p.grad.device if p.grad is not None else None for p in module.trained.values()} == {CUDA}
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.trained.values())
        make_optimizer(list(module.trained.values()), config).step()


# What the suite runs: two blocks


@pytest.mark.parametrize(
    ("mode", "base_dtype"), [("image2image", "bfloat16"), ("controlnet", "int8"), ("image2image", "float32")]
)
def test_a_training_step_of_two_blocks(device, mode, base_dtype):
    a_step(config_of(mode, f"base_dtype={base_dtype}", "accompaniment.injection_layers=[0,1]"), blocks=BLOCKS)


# The published sizes


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, 240])
@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("mode", ["image2image", "controlnet"])
def test_a_training_step_with_ssl_features(device, mode, base_dtype, seconds):
    settings = (f"base_dtype={base_dtype}", f"crop_seconds={seconds}")
    a_step(config_of(mode, *settings), blocks=PROJECTED, features=True)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["lora.use_dora=true", "lora.lora_dropout=0.1", "accompaniment.objective=naive"])
def test_a_training_step_of_another_kind(device, setting):
    a_step(config_of("image2image", "base_dtype=bfloat16", setting), blocks=PROJECTED)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("image2image", ("base_dtype=bfloat16", "crop_seconds=240")),
        ("image2image", ("base_dtype=int8", "crop_seconds=240")),
        ("image2image", ("base_dtype=float32", "crop_seconds=60")),
        ("image2image", ("base_dtype=bfloat16", "crop_seconds=30", "gradient_checkpointing=false")),
        ("controlnet", ("base_dtype=bfloat16", "crop_seconds=240")),
        ("controlnet", ("base_dtype=bfloat16", "crop_seconds=60")),
    ],
)
def test_the_estimate_is_within_five_percent_of_what_is_counted(mode, settings):
    config = load_config(TrainingConfig, f"{mode}_base", list(settings))
    with fake_cuda(), Counting(GpuLimits(), TOKENS) as counting:
        module = make_module(config, PUBLISHED.transformer["num_layers"])
        training_steps(module, make_batch(config), counting)
        assert estimated_bytes(module) == pytest.approx(counting.peak, rel=0.05)


@pytest.mark.slow
def test_a_renderings_part_of_the_estimate_is_what_is_counted():
    config = load_config(TrainingConfig, "image2image_base", ["base_dtype=bfloat16", "crop_seconds=60"])
    rendering = config.model_copy(update={"render_every_n_steps": 100})
    with fake_cuda(), Counting(GpuLimits(), TOKENS) as counting, torch.no_grad():
        silent, rendered = (estimated_bytes(make_module(one, 24)) for one in (config, rendering))
        before = counting.held
        with CUDA:
            codec = Codec(network_config(CodecConfig, PUBLISHED.codec, ""), encoder=False, decoder=True)
            vocoder = Vocoder(network_config(VocoderConfig, PUBLISHED.vocoder, ""))
        counting.restart()
        vocode_in_blocks(vocoder, decode_mel_in_windows(codec, torch.empty(8, 16, 646, device=CUDA)))
        kept = 646 * 2560 * (24 * 2 + 99)
        assert rendered - silent + kept == pytest.approx(counting.peak - before, rel=0.05)


def vocal_guided_pingpong(blocks: int) -> Tensor:
    config = config_of("controlnet", "base_dtype=bfloat16", "accompaniment.injection_layers=[0,1]")
    network, conditioning = make_transformer("bfloat16", blocks), conditioning_of(config)
    conditioner = conditioning.make_conditioner(network)
    assert isinstance(conditioner, nn.Module)
    conditioner.to(CUDA)
    settings = SamplerSettings(steps=2, scheduler="pingpong", vocal_guidance_scale=2.0, guidance_interval=1.0)
    with Strict(TOKENS), torch.no_grad():
        ones = torch.ones(1, TEXT_TOKENS, device=CUDA), torch.ones(1, LYRIC_TOKENS, device=CUDA)
        text, speaker = torch.empty(1, TEXT_TOKENS, 768, device=CUDA), torch.zeros(1, 512, device=CUDA)
        lyrics = torch.zeros(1, LYRIC_TOKENS, dtype=torch.int64, device=CUDA)
        told = network.encode(text, ones[0], speaker, lyrics, ones[1])
        vocal, activity = torch.empty(1, 8, 16, 108, device=CUDA), torch.empty(1, 108, device=CUDA)
        source = conditioning.vocal_source(vocal, activity, torch.tensor([0.5], device=CUDA), STATISTICS)
        seeds = [torch.Generator().manual_seed(0)]
        noise = draw_noise(seeds, (8, 16, 108)).to(CUDA)
        return sample(
            network, told, told, noise, settings, source=source, conditioner=conditioner, generators=seeds
        )  # fmt: skip


def test_sampling_with_vocal_guidance_and_fresh_noise(device):
    assert vocal_guided_pingpong(BLOCKS).device == CUDA


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codec_and_vocoder(device, dtype):
    with default_dtype(dtype), CUDA:
        codec = Codec(network_config(CodecConfig, PUBLISHED.codec, ""), encoder=True, decoder=True).eval()
    with CUDA:
        vocoder = Vocoder(network_config(VocoderConfig, PUBLISHED.vocoder, "")).eval()
    with Strict(), torch.no_grad():
        latents = codec.encode(
            torch.empty(2, 25 * LATENTS.sample_rate_hz, device=CUDA),
            longest=PrepConfig().encode.piece_frames(ACE_STEP_1.latents),
        )
        assert latents.device == CUDA
        assert latents.dtype == torch.float32
        if dtype == torch.float32:
            assert decode_audio(codec, vocoder, latents[..., :64]).device == CUDA


# Faults that are found


def on_the_cpu(timestep: Tensor) -> Tensor:
    return torch.zeros(len(timestep), 256)


def in_float32(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return (normed * (1 + scale) + shift).float()


def for_the_gpu(generators, shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.empty(*shape, device=CUDA).normal_(generator=one) for one in generators])


@pytest.mark.parametrize(
    ("place", "name", "fault", "said"),
    [
        (models.acestep1.transformer.transformer, "timestep_sinusoid", on_the_cpu, "device"),
        (models.acestep1.transformer.block, "modulate", in_float32, "torch.float32"),
        (models.flow.sampler, "draw_noise", for_the_gpu, "a generator of cpu draws for"),
    ],
)
def test_a_wrong_device_a_wrong_dtype_and_a_wrong_generator_are_found(device, monkeypatch, place, name, fault, said):
    monkeypatch.setattr(place, name, fault)
    with pytest.raises((RuntimeError, TypeError), match=said):
        vocal_guided_pingpong(BLOCKS)


# The tools themselves


def test_the_backward_pass_in_python_is_torchs():
    transformer = open_transformer(TINY)
    attach_lora(transformer, rank=4, alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "lyric_proj"])
    for parameter in trained_parameters(transformer).values():
        nn.init.normal_(parameter, std=0.05)
    transformer.enable_gradient_checkpointing()
    projection = SourceProjection(128, transformer.inner_width)
    trained = [*trained_parameters(transformer).values(), *projection.parameters()]
    clip = random_clip(transformer, 30, torch.device("cpu"))
    clip = replace(clip, source=replace(clip.source, strength=torch.tensor([0.5])))

    def gradients(take) -> list[Tensor]:
        objective = conditioning_of(TrainingConfig()).make_objective()
        made = estimate(transformer, clip, encode(transformer, clip), objective=objective, conditioner=projection)
        take(denoising_loss(made.clean, clip.target, clip.source.activity).mean())
        found = [parameter.grad for parameter in trained if parameter.grad is not None]
        assert len(found) == len(trained)
        for parameter in trained:
            parameter.grad = None
        return found

    ours, torchs = gradients(lambda loss: backward(loss.grad_fn)), gradients(lambda loss: loss.backward())
    assert all(torch.equal(one, other) for one, other in zip(ours, torchs, strict=True))


def test_what_is_counted(device):
    with Counting(GpuLimits()) as counting:
        x, weight = torch.empty(100, 512, device=CUDA), torch.empty(256, 512, device=CUDA)
        held = 4 * 512 * (100 + 256)
        assert counting.held == held
        counting.restart()
        made = torch.nn.functional.linear(x, weight)
        twice = made.view(50, 2, 256).transpose(0, 1) * 2  # two views and a launch
        assert counting.counts.launches == 2
        assert counting.counts.flop == 2 * 100 * 256 * 512
        assert counting.counts.bytes == held + 4 * 3 * 100 * 256
        assert counting.peak == counting.held == held + 2 * 4 * 100 * 256
        del made, twice
        assert counting.held == held
        assert counting.peak == held + 2 * 4 * 100 * 256


def test_a_block_asks_for_no_more_than_it_did(device):
    """Of `image2image_base`: what two blocks launch and move more than one, as docs/scaling.md counts."""
    launches = {}
    for blocks in (1, 2):
        with Counting(GpuLimits(), TOKENS) as counting:
            module = make_module(config_of("image2image", "base_dtype=bfloat16"), blocks)
            batch = make_batch(module.config)
            counting.restart()
            root = module.losses(batch).total.grad_fn
            forward = counting.counts.launches
            backward(root)
            launches[blocks] = (forward, counting.counts.launches - forward)
    assert launches[2][0] - launches[1][0] <= 82
    assert launches[2][1] - launches[1][1] <= 208


def test_the_script_prints_a_table(monkeypatch, capsys):
    arguments = ["--blocks", "1", "--seconds", "5", "--set", "lora.r=4"]
    monkeypatch.setattr(sys, "argv", ["fake_gpu", *arguments])
    main()
    lines = capsys.readouterr().out.splitlines()
    names = ["forward", "backward", "optimiser", "one guided sampling step", "training step"]
    rows = {line[:26].strip(): [float(cell) for cell in line[26:].split()] for line in lines[2:7]}
    assert list(rows) == names
    np.testing.assert_allclose(sum(np.array(rows[name]) for name in names[:3]), rows["training step"], atol=0.2)
    assert lines[-1].startswith("peak of training")

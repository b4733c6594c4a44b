"""What a CUDA device computes is what the CPU does, within rounding. On the CPU the same tests compare it with itself,
so that none is written that could not run."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.full_size import random_clip
from models.acestep1.codec.codec import decode_audio
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel
from models.adapters.lora import attach_lora, trained_parameters
from models.flow.conditioning import SourceProjection
from models.flow.sampler import SamplerSettings, draw_noise, sample
from models.loading.acestep1 import open_codec, open_transformer, open_vocoder
from models.loading.checkpoint import TINY
from models.loading.int8 import to_int8
from train.config import TrainingConfig
from train.loop.losses import denoising_loss
from train.loop.module import conditioning_of, encode, estimate

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}
MOST_APART = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.05}


def apart(one: Tensor, other: Tensor) -> float:
    """Norm of the difference, in norms."""
    one, other = one.detach().float().cpu(), other.detach().float().cpu()
    return float((one - other).norm() / other.norm())


def adapted(base_dtype: str, device: torch.device) -> tuple[ACEStepTransformer2DModel, SourceProjection]:
    """The tiny base with an adapter and a projection that do something."""
    transformer = open_transformer(TINY, dtype=DTYPES[base_dtype])
    if base_dtype == "int8":
        to_int8(transformer)
    attach_lora(transformer, rank=4, alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "lyric_proj"])
    projection, drawn = SourceProjection(128, transformer.inner_width), torch.Generator().manual_seed(5)
    for weight in (*trained_parameters(transformer).values(), *projection.parameters()):
        nn.init.normal_(weight, std=0.05, generator=drawn)
    return transformer.to(device), projection.to(device)


def gradients(base_dtype: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one training step."""
    transformer, projection = adapted(base_dtype, device)
    transformer.enable_gradient_checkpointing()
    torch.manual_seed(1)
    clip = random_clip(transformer, 30, CPU).to(device)
    objective = conditioning_of(TrainingConfig()).make_objective()
    made = estimate(transformer, clip, encode(transformer, clip), objective=objective, conditioner=projection)
    loss = denoising_loss(made.clean, clip.target, clip.source.activity).mean()
    loss.backward()
    trained = (*trained_parameters(transformer).values(), *projection.parameters())
    found = [weight.grad.flatten() for weight in trained if weight.grad is not None]
    assert len(found) == len(trained)
    assert all(gradient.dtype == torch.float32 and gradient.device.type == device.type for gradient in found)
    return loss, torch.cat(found)


@pytest.mark.parametrize("base_dtype", list(DTYPES))
def test_a_training_step(device, base_dtype):
    (loss, gradient), (expected_loss, expected) = gradients(base_dtype, device), gradients(base_dtype, CPU)
    assert apart(loss, expected_loss) < MOST_APART[base_dtype]
    assert apart(gradient, expected) < 4 * MOST_APART[base_dtype]


@torch.no_grad()
def drawn(base_dtype: str, device: torch.device, **settings) -> Tensor:
    transformer, projection = adapted(base_dtype, device)
    torch.manual_seed(1)
    clip = random_clip(transformer, 30, CPU).to(device)
    told = encode(transformer, clip)
    silent = replace(told, states=torch.zeros_like(told.states))
    seeds = [torch.Generator().manual_seed(2)]
    noise = draw_noise(seeds, (8, 16, 30)).to(device)
    wanted = SamplerSettings(steps=4, guidance_scale=3.0, guidance_interval=1.0, **settings)
    return sample(
        transformer, told, silent, noise, wanted, source=clip.source, conditioner=projection, generators=seeds
    )


SCHEDULERS, GUIDANCES = ("euler", "heun", "pingpong"), ("apg", "cfg", "cfg_zero_star")
PAIRS = [
    # On the CPU each of them once; `-m gpu` runs all pairs.
    pytest.param(scheduler, guidance, marks=[] if number == other else [pytest.mark.slow])
    for number, scheduler in enumerate(SCHEDULERS)
    for other, guidance in enumerate(GUIDANCES)
]


@pytest.mark.parametrize(("scheduler", "guidance"), PAIRS)
def test_the_sampler(device, scheduler, guidance):
    given = {"scheduler": scheduler, "guidance": guidance}
    assert apart(drawn("float32", device, **given), drawn("float32", CPU, **given)) < 0.01


@pytest.mark.parametrize("base_dtype", ["bfloat16", "int8"])
def test_the_sampler_on_a_smaller_base(device, base_dtype):
    given = {"vocal_guidance_scale": 2.0}
    assert apart(drawn(base_dtype, device, **given), drawn(base_dtype, CPU, **given)) < 0.2


@torch.no_grad()
def test_encoding_and_decoding(device):
    codec, vocoder = open_codec(TINY, encoder=True, decoder=True), open_vocoder(TINY)
    wave = 0.1 * torch.randn(2, 3 * 44100, generator=torch.Generator().manual_seed(3))
    expected = codec.encode(wave)
    mel = codec.decode_mel(expected)
    codec, vocoder = codec.to(device), vocoder.to(device)
    latents = codec.encode(wave.to(device))
    assert latents.device.type == device.type
    assert apart(latents, expected) < 1e-3
    assert apart(codec.decode_mel(expected.to(device)), mel) < 1e-3
    assert decode_audio(codec, vocoder, latents).isfinite().all()
